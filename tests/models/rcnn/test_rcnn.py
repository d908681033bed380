"""Losses, gradients and predictions of both detectors."""

import math
import statistics
import sys

import pytest
import torch
from pycocotools import mask as coco_mask
from pydantic import ValidationError
from torchvision.ops import box_iou

from models.rcnn.boxes import NEGATIVE
from models.rcnn.model import FasterRCNNConfig, MaskRCNNConfig
from runtime.distributed import start_processes
from runtime.shutdown import exit_together
from structures import Batch, DatasetInfo
from tests import launch
from tests.conftest import UPSAMPLERS
from tests.models.rcnn.examples import INFO, batch, build

BOXES = [[[10.0, 12, 60, 70], [80, 20, 150, 110], [5, 5, 20, 20]], [[30.0, 30, 90, 90]]]
LOSSES = {"loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box", "loss_mask"}


def backward(model: torch.nn.Module, data: Batch) -> dict[str, torch.Tensor]:
    losses = model.train()(data)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def test_losses_start_near_what_chance_gives():
    starts = [backward(build(seed=seed), batch(BOXES)) for seed in range(5)]
    assert all(losses.keys() == LOSSES for losses in starts)
    median = {name: statistics.median(losses[name].item() for losses in starts) for name in LOSSES}
    assert median["loss_rpn_cls"] == pytest.approx(math.log(2), abs=0.02)
    assert median["loss_cls"] == pytest.approx(math.log(INFO.num_classes + 1), abs=0.1)
    assert median["loss_mask"] == pytest.approx(math.log(2), abs=0.3)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("boxes", [[[], []], [[], BOXES[0]], BOXES], ids=["none", "some", "all"])
def test_every_parameter_gets_a_finite_gradient(name, boxes):
    model = build(name)
    losses = backward(model, batch(boxes))
    assert all(loss.isfinite() for loss in losses.values())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_every_upsampler_trains_and_predicts_at_odd_sizes(name):
    model = build(upsampler=name, mask_upsampler=name, box_head={"channels": 32, "min_score": 0.0, "detections": 5})
    data = batch(BOXES, (128, 192), inside=(101, 163))
    backward(model, data)
    assert all(parameter.grad is not None for parameter in model.parameters())
    for target in data.targets:
        target.size = (77, 131)
    for prediction in model.eval().predict(data):
        found = prediction.instances
        assert found.boxes.shape == (5, 4)
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 2] <= 131).all()
        assert (found.boxes[:, 3] <= 77).all()
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        masks = [coco_mask.decode({"size": [77, 131], "counts": rle}) for rle in found.rles]
        assert [mask.shape for mask in masks] == [(77, 131)] * 5


def test_detections_of_a_class_overlap_little_and_scores_exceed_the_threshold():
    model = build("faster_rcnn", box_head={"channels": 32, "min_score": 0.1, "nms_iou": 0.5, "detections": 50}).eval()
    found = model.predict(batch(BOXES))[0].instances
    assert found.scores.min() > 0.1
    for label in found.labels.unique():
        boxes = found.boxes[found.labels == label]
        overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
        assert overlaps.max() <= 0.5


def test_nothing_found_is_an_empty_prediction():
    model = build(box_head={"channels": 32, "min_score": 0.99}).eval()
    found = model.predict(batch(BOXES))[0].instances
    assert found.boxes.shape == (0, 4)
    assert found.rles == []


def test_crowd_regions_are_neither_object_nor_background():
    data = batch([[[0.0, 0, 192, 128]]])
    data.targets[0].instances.crowd[:] = True
    model = build()
    ignored = backward(model, data)
    assert ignored["loss_rpn_box"] == ignored["loss_box"] == ignored["loss_mask"] == 0
    # Every proposal inside the region is left out, so that nothing is learnt from the classes either.
    assert ignored["loss_cls"] == 0
    counted = backward(build(box_head={"channels": 32, "crowd_share": None}), data)
    assert counted["loss_cls"] > 0


def test_single_anchors_are_those_of_whole_levels_in_value_and_gradient():
    model = build("faster_rcnn").double()
    torch.manual_seed(0)
    pyramid = [torch.randn(2, 32, 40 >> level, 48 >> level, dtype=torch.float64).requires_grad_() for level in range(5)]
    outputs = model.rpn(pyramid)
    logits, deltas = torch.cat(outputs.logits, dim=1), torch.cat(outputs.deltas, dim=1)
    total = logits.shape[1]
    # The first and the last anchor of every level lie in corners, where the convolution sees padding.
    ends = torch.tensor([part.shape[1] for part in outputs.logits]).cumsum(0)
    anchors = torch.cat([torch.randint(total, (50,)), torch.tensor([0]), ends[:-1], ends - 1])
    images = torch.arange(len(anchors)) % 2
    pairs = ((logits[images, anchors], deltas[images, anchors]), model.rpn.predict_at_anchors(pyramid, images, anchors))
    gradients = []
    for found, moved in pairs:
        loss = (found.sin().sum() + moved.cos().sum()) * 100
        gradients.append(torch.autograd.grad(loss, [*model.rpn.parameters(), *pyramid], retain_graph=True))
    for whole, single in zip((*pairs[0], *gradients[0]), (*pairs[1], *gradients[1]), strict=True):
        torch.testing.assert_close(single, whole.to(single.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_parameter_learns_in_low_precision(dtype):
    """A cast that is made without gradients and kept by autocast would leave its parameter out."""
    model = build(upsampler="dysample+", mask_upsampler="dysample+").train()
    with torch.autocast("cpu", dtype=dtype):
        losses = model(batch(BOXES))
        torch.stack(list(losses.values())).sum().backward()
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        found = model.eval().predict(batch(BOXES))[0].instances
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("where", ["backbone", "rpn.objectness", "rpn.deltas", "box_head.deltas", "mask_head"])
def test_weights_that_are_not_numbers_show_in_the_losses_and_break_nothing_else(where):
    model = build()
    for parameter in model.get_submodule(where).parameters():
        parameter.data.fill_(math.nan)
    losses = backward(model, batch(BOXES))
    assert not all(loss.isfinite() for loss in losses.values())
    for prediction in model.eval().predict(batch(BOXES)):
        assert prediction.instances.boxes.isfinite().all()


def test_anchors_end_exactly_where_the_padded_image_ends():
    model = build("faster_rcnn")
    sizes = [(2048 >> level, 4096 >> level) for level in range(2, 7)]
    anchors = torch.cat(model.rpn.anchors([torch.empty(1, 1, *size) for size in sizes]))
    matched, _ = model.rpn._match_anchors(anchors, (1300, 2490), batch([[]]).targets[0], 64)
    inside = sum((1344 >> level) * (2496 >> level) * 3 for level in range(2, 7))
    assert (matched == NEGATIVE).sum() == inside


def test_padding_of_the_batch_takes_no_part():
    """Anchors beyond the image's own padded size do not count, proposals end at the image."""
    model = build("faster_rcnn").train()
    data = batch([[[10.0, 10, 50, 50]]], (256, 256), inside=(60, 60))
    outputs = model.rpn(model.neck(model.backbone(data.images)))
    anchors = torch.cat(outputs.anchors)
    matched, _ = model.rpn._match_anchors(anchors, (60, 60), data.targets[0], model.size_divisor)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert (matched[(centres >= 64).any(dim=1)] == -2).all()
    assert (matched[(centres < 64).all(dim=1)] == -1).any()
    assert model.rpn.propose(outputs, data.sizes)[0].max() <= 60


def test_a_detection_that_clipping_leaves_empty_is_one_of_the_best():
    """As in mmdetection; the second box lies beside the image, which ends at column 60."""
    head = build("faster_rcnn", box_head={"channels": 32, "detections": 2}).box_head
    boxes = torch.tensor([[0.0, 0, 20, 20], [70, 10, 90, 30], [30, 30, 50, 50]])
    scores = torch.zeros(3, 5)
    scores[:, 0] = torch.tensor([0.9, 0.8, 0.7])
    found = head._detect(boxes, scores, torch.zeros(3, 5, 4), (60, 60))
    assert found.boxes.tolist() == [[0, 0, 20, 20], [60, 10, 60, 30]]


def test_what_is_sampled_follows_from_the_targets_seed():
    losses = []
    for seed in (0, 0, 1):
        data = batch(BOXES)
        for target in data.targets:
            target.seed = seed
        torch.manual_seed(len(losses))
        losses.append(build(rpn={"samples": 32})(data)["loss_rpn_cls"].item())
    assert losses[0] == losses[1] != losses[2]


def test_data_without_masks_or_boxes_are_refused():
    with pytest.raises(ValueError, match=r"data\.masks=true"):
        MaskRCNNConfig(backbone="resnet50", upsampler="nearest").build(DatasetInfo("detection", "coco", ("a",)))
    with pytest.raises(ValueError, match=r"data\.masks=false"):
        FasterRCNNConfig(backbone="resnet50", upsampler="nearest").build(INFO)
    with pytest.raises(ValueError, match="boxes"):
        FasterRCNNConfig(backbone="resnet50", upsampler="nearest").build(DatasetInfo("semantic", "ade20k", ("a",)))
    with pytest.raises(ValidationError, match="fpn_p6"):
        FasterRCNNConfig(backbone="resnet50", upsampler="nearest", neck="pafpn")


SMALL = [[[5.0, 6, 30, 35], [40, 10, 60, 55]], [[15.0, 15, 45, 45]]]


def _gradients(data: Batch) -> list[torch.Tensor]:
    # Every proposal is sampled: at the start their scores are equal but for rounding, which would choose among them.
    model = build(
        rpn={"nms_iou": 1.0, "proposals": 100_000, "before_nms_train": 100_000},
        box_head={"channels": 32, "samples": 100_000, "positive_share": 1.0},
    )
    backward(model, data)
    return [parameter.grad for parameter in model.parameters()]


@exit_together()
def main() -> None:
    """In each of two processes: the gradients of one image; the first process writes their mean to a file."""
    torch.set_num_threads(1)
    processes = start_processes("cpu")
    data, own = batch(SMALL, (64, 64)), slice(processes.rank, processes.rank + 1)
    means = [
        processes.mean(gradient) for gradient in _gradients(Batch(data.images[own], data.sizes[own], data.targets[own]))
    ]
    if processes.is_main:
        torch.save(means, sys.argv[1])


def test_two_processes_give_the_gradient_of_one(tmp_path):
    done = launch.run("tests.models.rcnn.test_rcnn", tmp_path / "gradients.pt", processes=2)
    assert done.codes == [0, 0], done.err
    one, two = (
        torch.cat([gradient.flatten() for gradient in gradients])
        for gradients in (_gradients(batch(SMALL, (64, 64))), torch.load(tmp_path / "gradients.pt"))
    )
    assert (two - one).norm() <= 1e-3 * one.norm()
