"""Losses and gradients do not depend on how the images of a step are divided among processes.

A batch is padded to its largest image. Where a loss is tested alone, each process has its own padding. A whole network
sees the padding at the borders of its images, so there all processes pad to one size.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from models import ModelConfig
from models.base import DenseModel
from models.components import LossConfigs
from models.layers.pixel_losses import pixel_cross_entropy
from models.layers.pixel_losses import pixel_losses as all_pixel_losses
from models.maskformer.losses import QueryLogits, Segments
from models.maskformer.losses import losses as mask_losses
from models.panoptic_fpn.semantic_head import SemanticHead
from runtime.distributed import Processes, synchronize_batch_norm
from structures import IGNORE, Batch, DatasetInfo, Instances, Size, Target
from tests.models.processes import assert_two_learn_like_one
from upsamplers import BilinearConfig

SIZES: list[Size] = [(32, 40), (64, 48)]
K = 5


def labels_of(image: int, size: Size) -> Tensor:
    """Random labels, some of them ignored, of an image whose batch is padded to `size`."""
    labels = torch.randint(IGNORE, K, SIZES[image], generator=torch.Generator().manual_seed(image)).to(torch.int16)
    return _grow(labels[None, None].float(), size, "constant", IGNORE)[0, 0].to(torch.int16)


def padded_size(images: list[int]) -> Size:
    return max(SIZES[image][0] for image in images), max(SIZES[image][1] for image in images)


def _grow(maps: Tensor, size: Size, mode: str = "replicate", value: float = 0) -> Tensor:
    missing = (0, size[1] - maps.shape[3], 0, size[0] - maps.shape[2])
    return F.pad(maps, missing, mode) if mode == "replicate" else F.pad(maps, missing, value=value)


def logits_of(images: list[int], leaves: list[Tensor]) -> Tensor:
    """What a network would give at a quarter of the size, if it did not see the padding."""
    height, width = padded_size(images)
    return torch.cat([_grow(leaves[image], (height // 4, width // 4)) for image in images])


def pixel_losses(images: list[int], leaves: list[Tensor]) -> dict[str, Tensor]:
    labels = torch.stack([labels_of(image, padded_size(images)) for image in images])
    return {"loss_ce": pixel_cross_entropy(logits_of(images, leaves), labels, [SIZES[image] for image in images])}


def rare_losses(images: list[int], leaves: list[Tensor]) -> dict[str, Tensor]:
    labels = torch.stack([labels_of(image, padded_size(images)) for image in images])
    settings = ["focal", {"name": "ohem", "threshold": 0.1, "min_kept": 500}, "dice"]
    losses = [loss.build(DatasetInfo("semantic", "any")) for loss in TypeAdapter(LossConfigs).validate_python(settings)]
    return all_pixel_losses(losses, logits_of(images, leaves), labels, [SIZES[image] for image in images])


def panoptic_losses(images: list[int], leaves: list[Tensor]) -> dict[str, Tensor]:
    head, size = SemanticHead(8, 32, K, BilinearConfig()), padded_size(images)
    head.forward = lambda pyramid: pyramid[0]  # type: ignore[method-assign, assignment]
    targets = [Target(str(image), SIZES[image], semantic=labels_of(image, size)) for image in images]
    batch = Batch(torch.empty(0), [SIZES[image] for image in images], targets)
    return {"loss_semantic": head.loss([logits_of(images, leaves)], batch, torch.arange(K), 16)}


def maskformer_losses(images: list[int], leaves: list[Tensor]) -> dict[str, Tensor]:
    truth = []
    for image in images:
        semantic = labels_of(image, padded_size(images))
        labels = semantic.unique().long()[1 + image :]  # another number of segments in each image
        truth.append(Segments(labels, semantic == labels[:, None, None], SIZES[image]))
    masks, classes = logits_of(images, leaves[:2]), torch.stack([leaves[2 + image] for image in images])
    return mask_losses([QueryLogits(classes, masks), QueryLogits(classes.sin(), masks.sin())], truth)


@pytest.mark.parametrize("losses_of", [pixel_losses, rare_losses, panoptic_losses, maskformer_losses])
def test_a_loss_leaves_out_the_padding_and_counts_over_all_processes(
    losses_of: Callable[[list[int], list[Tensor]], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients(images: list[int], _: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        generator = torch.Generator().manual_seed(2)
        leaves = [torch.randn(1, K, height // 4, width // 4, generator=generator) for height, width in SIZES]
        leaves += [torch.randn(K, K + 1, generator=generator) for _ in SIZES]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        losses = losses_of(images, leaves)
        torch.stack(list(losses.values())).sum().backward()
        return losses, [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    assert_two_learn_like_one(monkeypatch, gradients)


BACKBONE = {"name": "mit_b0", "channels": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "drop_path": 0}
EVERY_PROPOSAL = {"nms_iou": 1.0, "proposals": 100_000, "before_nms_train": 100_000, "anchors": {"scale": 4}}
HEADS = {"rpn": EVERY_PROPOSAL, "box_head": {"channels": 32, "samples": 100_000, "positive_share": 1.0}}
MODELS = {
    "segformer": ("semantic", {"channels": 16, "dropout": 0}),
    "maskformer": ("semantic", {"channels": 32, "queries": 7, "layers": 2, "hidden": 32, "dropout": 0}),
    "faster_rcnn": ("detection", {"channels": 32, "neck": "fpn", **HEADS}),
    "mask_rcnn": ("instance", {"channels": 32, "mask_channels": 32, **HEADS}),
    "panoptic_fpn": ("panoptic", {"channels": 32, "mask_channels": 32, "semantic_channels": 32, **HEADS}),
    "depthformer": ("depth", {"channels": 16, "points": 2, "stem_channels": 8, "dropout": 0}),
    "probe": ("semantic", {}),
}


def objects_of(image: int, size: Size) -> Instances:
    """One object in the first image, three in the second."""
    boxes = torch.tensor([[4.0, 3, 30, 28], [20, 20, 44, 60], [2, 30, 20, 62]][: 1 + 2 * image])
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return Instances(boxes, torch.arange(len(boxes)), masks)


def target_of(image: int, size: Size) -> Target:
    depth = 1 + torch.rand(SIZES[image], generator=torch.Generator().manual_seed(image))
    return Target(
        str(image),
        SIZES[image],
        semantic=labels_of(image, size),
        instances=objects_of(image, size),
        depth=_grow(depth[None, None], size, "constant")[0, 0],
        seed=image,
    )


def build(name: str) -> DenseModel:
    task, options = MODELS[name]
    info = DatasetInfo(task, "any", tuple("abcde"), things=(True,) * 3 + (False,) * 2, max_depth=10.0)
    config = {"name": name, "backbone": BACKBONE, "upsampler": "bilinear", **options}
    torch.manual_seed(0)
    return TypeAdapter(ModelConfig).validate_python(config).build(info)


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_learn_from_images_of_two_sizes_like_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, *shared = (build(name) for _ in range(3))  # here, since threads share a generator
    for rank, model in enumerate(shared):
        synchronize_batch_norm(model, Processes(rank, 2, torch.device("cpu")))
    size = padded_size([0, 1])
    pictures = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))

    def gradients(images: list[int], processes: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        model = alone if processes == 1 else shared[images[0]]
        targets = [target_of(image, size) for image in images]
        losses = model(Batch(pictures[images], [SIZES[image] for image in images], targets))
        torch.stack(list(losses.values())).sum().backward()
        return losses, [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]

    assert_two_learn_like_one(monkeypatch, gradients)


@pytest.mark.parametrize("name", ["segformer", "probe"])
def test_the_loss_of_a_model_leaves_out_the_padding_of_its_batch(name: str) -> None:
    model, size = build(name), padded_size([0, 1])
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
    targets = [target_of(image, size) for image in (0, 1)]
    labels = torch.stack([target.semantic for target in targets]).long()  # type: ignore[misc]
    [loss] = model(Batch(images, SIZES, targets)).values()
    logits = F.interpolate(model.outputs(images)["logits"], size, mode="bilinear")
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(loss, total / sum(height * width for height, width in SIZES))
