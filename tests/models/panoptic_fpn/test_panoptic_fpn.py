"""Panoptic FPN: its semantic head, its fusion, its counts, and the whole model with every upsampler."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter

from models import ModelConfig
from models.panoptic_fpn.fusion import FusionConfig, fuse
from models.panoptic_fpn.model import PanopticFPN, PanopticFPNConfig
from models.panoptic_fpn.semantic_head import SemanticHead
from models.weights import FORMAT
from structures import IGNORE, Batch, DatasetInfo
from tests.conftest import UPSAMPLERS
from tests.models.rcnn.examples import SMALL, batch
from tests.models.rcnn.examples import build as build_detector
from upsamplers import BilinearConfig

# Things and stuff in turns, as in a user's own data; labels of things are 1, 3, 4.
INFO = DatasetInfo("panoptic", "any", tuple("abcdef"), things=(False, True, False, True, True, False))
COCO = DatasetInfo("panoptic", "coco_panoptic", tuple(map(str, range(133))), things=(True,) * 80 + (False,) * 53)


def build(upsampler: object = "nearest", seed: int = 0, **options: object) -> PanopticFPN:
    torch.manual_seed(seed)
    config = {"name": "panoptic_fpn", "upsampler": upsampler, **SMALL, "mask_channels": 32, "semantic_channels": 32}
    return TypeAdapter(ModelConfig).validate_python(config | options).build(INFO)


def panoptic_batch(objects: list[list[list[float]]], **sizes: tuple[int, int]) -> Batch:
    """Objects of the classes 1, 3, 4 in turn on a wall of class 2, whose top rows have no label."""
    plain = batch(objects, **sizes)
    targets = []
    for target in plain.targets:
        found = target.instances
        assert found is not None
        assert found.masks is not None
        labels = torch.tensor([1, 3, 4])[found.labels % 3]
        semantic = torch.full(plain.images.shape[-2:], 2, dtype=torch.int16)
        semantic[:8] = IGNORE
        for mask, label in zip(found.masks, labels, strict=True):
            semantic[mask] = int(label)
        targets.append(replace(target, instances=replace(found, labels=labels), semantic=semantic))
    return Batch(plain.images, plain.sizes, targets)


BOXES = [[[10.0, 20, 60, 90], [80, 30, 150, 100]], [[30.0, 10, 100, 60]]]

# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "number"), [("resnet50", 46_027_110), ("resnet101", 65_019_238)])
def test_parameters_of_table_8(backbone: str, number: int) -> None:
    with torch.device("meta"):
        model = PanopticFPNConfig.model_validate({"backbone": backbone, "upsampler": "nearest"}).build(COCO)
    assert sum(parameter.numel() for parameter in model.parameters()) == number
    assert sum(parameter.numel() for parameter in model.semantic_head.parameters()) == 1_630_774


# Of the three stages: all parameters, weights of convolutions alone, and what DySample's Table 8 prints.
TABLE_8 = {
    "nearest": (0, 0, "0.0M"),
    "deconv": (1_770_240, 1_769_472, "1.8M"),
    "pixelshuffle": (7_080_960, 7_077_888, "7.1M"),
    "carafe": (222_444, 221_952, "0.2M"),
    "indexnet": (6_300_672, 6_297_600, "6.3M"),
    "a2u": (32_370, 29_184, "29.2K"),
    "fade": (141_771, 141_504, "0.1M"),
    "sapa": (52_416, 49_152, "0.1M"),
    "dysample-s": (3_120, 3_072, "3.1K"),
    "dysample-s+": (6_192, 6_144, "6.2K"),
    "dysample": (24_672, 24_576, "24.6K"),
    "dysample+": (49_248, 49_152, "49.2K"),
}


@pytest.mark.parametrize("name", TABLE_8)
def test_increments_of_table_8(name: str) -> None:
    everything, weights, printed = TABLE_8[name]
    with torch.device("meta"):
        stages = (
            PanopticFPNConfig.model_validate({"backbone": "resnet50", "upsampler": name}).build(COCO).neck.upsamplers
        )
    assert len(stages) == 3
    assert sum(parameter.numel() for parameter in stages.parameters()) == everything
    assert sum(stage.weight_count() for stage in stages) == weights
    number, unit = float(printed[:-1]), {"K": 1e3, "M": 1e6}[printed[-1]]
    assert number in (round(weights / unit, 1), round(everything / unit, 1))


# --- semantic head ---------------------------------------------------------------------------------------------------


def reference_head(head: SemanticHead, pyramid: list[torch.Tensor]) -> torch.Tensor:
    """The figure of the paper, spelt out."""

    def unit(x: torch.Tensor, level: int, step: int) -> torch.Tensor:
        conv, norm = head.units[level][step][0], head.units[level][step][1]
        x = F.conv2d(x, conv.weight, padding=1)
        return F.relu(F.group_norm(x, 32, norm.weight, norm.bias))

    def twice(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    p2, p3, p4, p5 = pyramid
    total = unit(p2, 0, 0) + twice(unit(p3, 1, 0)) + twice(unit(twice(unit(p4, 2, 0)), 2, 1))
    total = total + twice(unit(twice(unit(twice(unit(p5, 3, 0)), 3, 1)), 3, 2))
    return F.conv2d(total, head.classifier.weight, head.classifier.bias)


def test_the_head_computes_what_the_paper_draws() -> None:
    torch.manual_seed(0)
    head = SemanticHead(16, 64, 5, BilinearConfig())
    pyramid = [torch.randn(2, 16, 32 >> level, 48 >> level) for level in range(4)]
    torch.testing.assert_close(head(pyramid), reference_head(head, pyramid))


def test_the_loss_is_a_mean_over_every_fourth_pixel_ignored_ones_included() -> None:
    model = build()
    data = panoptic_batch(BOXES)
    pyramid = model.neck(model.backbone(data.images))
    logits = model.semantic_head(pyramid)
    total = 0.0
    # Labels 0, 2 and 5 are stuff: classes 0, 1, 2 of the head. All things are class 3.
    classes = {0: 0, 2: 1, 5: 2, 1: 3, 3: 3, 4: 3}
    for scores, target in zip(logits.log_softmax(dim=1), data.targets, strict=True):
        for row in range(0, 128, 4):
            for column in range(0, 192, 4):
                label = int(target.semantic[row, column])
                if label != IGNORE:
                    total -= scores[classes[label], row // 4, column // 4].item()
    expected = total / (2 * 32 * 48)
    loss = model.semantic_head.loss(pyramid, data, model.semantic_classes, model.size_divisor)
    assert loss.item() == pytest.approx(expected)
    assert model(data)["loss_semantic"].item() == pytest.approx(0.5 * expected, rel=1e-4)
    assert build(semantic_weight=2.0)(data)["loss_semantic"].item() == pytest.approx(2 * expected, rel=1e-4)


def test_channels_that_do_not_divide_into_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="semantic_channels 48"):
        build(semantic_channels=48)


# --- fusion ----------------------------------------------------------------------------------------------------------

SIZE = (6, 8)
STUFF = [10, 20]  # labels of the head's classes 0 and 1; class 2 is the things


def rectangle(top: int, left: int, height: int, width: int) -> tuple:
    return np.s_[top : top + height, left : left + width], np.ones((height, width), bool)


def fused(instances: list, semantic: torch.Tensor | None = None, **options: float) -> tuple[np.ndarray, dict[int, int]]:
    semantic = torch.zeros(SIZE, dtype=torch.int16) if semantic is None else semantic
    result = fuse(instances, semantic, STUFF, FusionConfig(**{"min_stuff_area": 0, **options}))
    assert result.ids.dtype == torch.int32
    return result.ids.numpy(), result.labels


def test_better_instances_come_first_and_the_rest_is_stuff() -> None:
    ids, labels = fused([(3, rectangle(0, 0, 4, 4)), (4, rectangle(2, 2, 4, 4))])
    assert labels == {1: 3, 2: 4, 3: 10}
    expected = np.full(SIZE, 3)
    expected[2:6, 2:6] = 2
    expected[0:4, 0:4] = 1
    assert np.array_equal(ids, expected)


def test_an_instance_of_which_just_half_is_taken_stays() -> None:
    first = (3, rectangle(0, 0, 4, 4))
    assert fused([first, (4, rectangle(2, 0, 4, 4))])[1] == {1: 3, 2: 4, 3: 10}
    assert fused([first, (4, rectangle(1, 0, 4, 4))])[1] == {1: 3, 2: 10}
    assert fused([first, (4, rectangle(1, 0, 4, 4))], max_overlap=0.75)[1] == {1: 3, 2: 4, 3: 10}
    assert fused([first, first], max_overlap=1)[1] == {1: 3, 2: 10}  # a segment has pixels


def test_things_without_an_instance_and_small_stuff_are_void() -> None:
    semantic = torch.zeros(SIZE, dtype=torch.int16)
    semantic[:, 4:] = 1
    semantic[:, 6:] = 2
    instances = [(3, rectangle(0, 5, 3, 3))]
    ids, labels = fused(instances, semantic)
    assert labels == {1: 3, 2: 10, 3: 20}
    assert (ids[:3, 5:] == 1).all()
    assert (ids[3:, 6:] == 0).all()
    # Of class 1, three pixels of two columns of six are covered.
    assert fused(instances, semantic, min_stuff_area=9)[1] == {1: 3, 2: 10, 3: 20}
    assert fused(instances, semantic, min_stuff_area=10)[1] == {1: 3, 2: 10}


def test_masks_without_a_pixel_make_no_segment() -> None:
    nothing = (np.s_[2:2, 3:5], np.zeros((0, 2), bool))
    assert fused([(3, nothing), (3, (np.s_[0:2, 0:2], np.zeros((2, 2), bool)))])[1] == {1: 10}


# --- the whole model -------------------------------------------------------------------------------------------------


def test_instances_are_learnt_as_by_a_mask_r_cnn_on_labels_among_the_things(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = build(), []
    monkeypatch.setattr(model, "instance_losses", lambda pyramid, data: seen.append(data) or {})
    data = panoptic_batch(BOXES)
    model(data)
    (things,) = seen
    assert [target.instances.labels.tolist() for target in things.targets] == [[0, 1], [0]]
    assert [target.instances.labels.tolist() for target in data.targets] == [[1, 3], [1]]


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_every_upsampler_in_both_places(upsampler: str) -> None:
    model = build(upsampler, semantic_upsampler=upsampler)
    data = panoptic_batch(BOXES, inside=(121, 187))
    losses = model(data)
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "loss_mask", "loss_semantic"}
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    sizes = [(75, 101), (121, 187)]
    for target, size in zip(data.targets, sizes, strict=True):
        target.size = size
    for prediction, size in zip(model.eval().predict(data), sizes, strict=True):
        assert prediction.panoptic.ids.shape == size
        found = set(prediction.panoptic.ids.unique().tolist()) - {0}
        assert found == prediction.panoptic.labels.keys()
        assert set(prediction.panoptic.labels.values()) <= set(range(6))


def test_images_without_objects_give_finite_losses_and_every_gradient() -> None:
    model = build("dysample+")
    losses = model(panoptic_batch([[], []]))
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


@pytest.mark.slow
def test_it_learns_one_picture_by_heart() -> None:
    model = build(
        seed=1, fusion={"min_stuff_area": 32}, box_head={"channels": 64, "best_match": True, "min_score": 0.6}
    )
    data = panoptic_batch([[[16.0, 24, 80, 88], [96, 40, 168, 104]]])
    for index, mask in enumerate(data.targets[0].instances.masks):
        data.images[0, index, mask] += 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        torch.stack(list(model(data).values())).sum().backward()
        optimizer.step()
    found = model.eval().predict(data)[0].panoptic
    truth = data.targets[0].semantic
    labels = torch.tensor([IGNORE, *found.labels.values()])[found.ids]
    assert (labels == truth)[truth != IGNORE].float().mean() > 0.9
    assert sorted(label for label in found.labels.values() if INFO.things[label]) == [1, 3]


def test_it_starts_from_a_mask_r_cnn_for_the_same_things(tmp_path: Path) -> None:
    detector = build_detector(mask_channels=32)
    things = {
        name: value[:3] if "mask_head.classifier" in name else value for name, value in detector.state_dict().items()
    }
    for name, rows in (("classifier", 4), ("deltas", 12)):
        for part in ("weight", "bias"):
            things[f"box_head.{name}.{part}"] = things[f"box_head.{name}.{part}"][:rows]
    torch.save({"format": FORMAT, "source": "test", "kind": "any", "model": things}, tmp_path / "detector.pt")
    model = build(weights=tmp_path / "detector.pt", weights_exclude=["semantic_head"]).state_dict()
    assert all(torch.equal(model[name], value) for name, value in things.items())


def test_raw_outputs_have_the_semantic_logits_at_a_quarter() -> None:
    found = build().outputs(torch.randn(1, 3, 64, 96))
    assert found["semantic"].shape == (1, 4, 16, 24)
    assert [tuple(level.shape[2:]) for level in found["features"]] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (DatasetInfo("instance", "coco", ("a",)), "use panoptic data, as configs/pan_dysample.yaml does"),
        (DatasetInfo("panoptic", "own", ("a",), things=(False,)), "none of the classes of own is a thing"),
    ],
)
def test_other_data_are_refused(info: DatasetInfo, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PanopticFPNConfig.model_validate({"backbone": "mit_b0", "upsampler": "nearest"}).build(info)
