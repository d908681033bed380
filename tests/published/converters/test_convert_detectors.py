import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from pydantic import TypeAdapter
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from errors import UserError
from experiment import load_experiment
from models import ModelConfig
from models.backbones.resnet import ResNetConfig
from published.converters.sources import convert
from structures import DatasetInfo
from tests.conftest import some
from tests.published.converters.renaming import in_old_names

State = dict[str, Tensor]
ROOT = Path(__file__).parents[3]
SIZE = (64, 128)  # multiples of 64: torchvision guesses the strides of anchors from sizes
IMAGES = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
COCO_GAPS = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


@torch.no_grad()
def published(build: Callable[..., nn.Module], num_classes: int) -> Any:
    """A detector of torchvision with statistics and biases that count, and outputs that are spread out."""
    torch.manual_seed(0)
    model: Any = build(weights=None, weights_backbone=None, num_classes=num_classes).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(1.5, 3)
            module.running_mean.normal_(0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.01)
    return model


@torch.no_grad()
def spread(model: Any) -> None:
    """Change the last layers so that each of their outputs varies around zero: noise then moves few results."""
    features = model.backbone(IMAGES)
    hidden = [F.relu(model.rpn.head.conv(level)) for level in features.values()]
    for layer, deviation in [(model.rpn.head.cls_logits, 2.0), (model.rpn.head.bbox_pred, 0.2)]:
        outputs = torch.cat([layer(level).flatten(2) for level in hidden], dim=2)[0]
        _standardise(layer, outputs, deviation)
    proposals, _ = model.rpn(ImageList(IMAGES, [SIZE]), features)
    heads = model.roi_heads
    hidden = heads.box_head(heads.box_roi_pool(features, proposals, [SIZE]))
    for layer, deviation in [(heads.box_predictor.cls_score, 3.0), (heads.box_predictor.bbox_pred, 1.0)]:
        _standardise(layer, layer(hidden).T, deviation)


def _standardise(layer: nn.Module, outputs: Tensor, deviation: float) -> None:
    factor = deviation / outputs.std(1)
    layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.sub_(outputs.mean(1)).mul_(factor)


def described(remark: str) -> dict:
    return json.loads(re.search(r"model: (\{.*\});", remark)[1])


def ours(state: State, tmp_path: Path, classes: int, exclude: tuple[str, ...] = ()) -> Any:
    """Our model with converted weights, read from a file by the configuration that the remark gives."""
    kind, tensors, remark, *_ = convert("torchvision", state, "test")
    torch.save({"kind": kind, "model": tensors}, tmp_path / "out.pt")
    options = described(remark) | {"weights": tmp_path / "out.pt", "weights_exclude": exclude}
    config = TypeAdapter(ModelConfig).validate_python(options)
    task = "instance" if config.name == "mask_rcnn" else "detection"
    return config.build(DatasetInfo(task, "test", tuple(map(str, range(classes))))).eval()


def assert_same_rows(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """The same rows [N, D] in any order, as nearly equal scores may change places."""
    assert ours.shape == theirs.shape
    distances = torch.cdist(ours, theirs, p=float("inf"))
    assert distances.amin(0).max() < tolerance
    assert distances.amin(1).max() < tolerance


@torch.no_grad()
def assert_same_results(model: Any, reference: Any, labels: Tensor) -> None:
    """labels: for each of torchvision's classes, ours."""
    features = reference.backbone(IMAGES)
    pyramid = model.neck(model.backbone(IMAGES))
    for level, expected in zip(pyramid, features.values(), strict=True):
        assert (level - expected).abs().max() < 1e-5 * expected.abs().max()

    expected_proposals, _ = reference.rpn(ImageList(IMAGES, [SIZE]), features)
    proposals = model.rpn.propose(model.rpn(pyramid), [SIZE])
    assert len(proposals[0]) > 100
    assert_same_rows(proposals[0], expected_proposals[0], 1e-2)

    expected = reference.roi_heads(features, expected_proposals, [SIZE])[0][0]
    [found] = model.box_head.detect(pyramid, proposals, [SIZE])
    assert len(found.boxes) == 100
    assert len(found.labels.unique()) > 1
    rows = torch.column_stack([found.boxes, 1000 * found.labels, 100 * found.scores])
    expected_rows = [expected["boxes"], 1000 * labels[expected["labels"]], 100 * expected["scores"]]
    assert_same_rows(rows, torch.column_stack(expected_rows), 0.1)  # pixels and percent

    if model.mask_head is not None:
        [masks] = model.mask_head.predict_masks(pyramid, [found])
        assert masks.std() > 0.01
        order = torch.cdist(rows, torch.column_stack(expected_rows)).argmin(1)
        torch.testing.assert_close(masks, expected["masks"][order, 0], rtol=0, atol=1e-4)


def test_a_converted_mask_rcnn_gives_what_torchvision_gives(tmp_path: Path) -> None:
    reference = published(detection.maskrcnn_resnet50_fpn, 5)
    spread(reference)
    model = ours(reference.state_dict(), tmp_path, 4)
    assert_same_results(model, reference, torch.tensor([-1, 0, 1, 2, 3]))


def with_fixed_norms(model: nn.Module) -> nn.Module:
    """Every BatchNorm2d replaced by torchvision's fixed one."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            fixed = FrozenBatchNorm2d(child.num_features)
            fixed.load_state_dict(child.state_dict())
            setattr(model, name, fixed)
        else:
            with_fixed_norms(child)
    return model


def test_a_published_faster_rcnn_gives_its_80_classes(tmp_path: Path) -> None:
    reference = with_fixed_norms(published(detection.fasterrcnn_resnet50_fpn, 91))
    overwrite_eps(reference, 0.0)  # as torchvision does for the published weights
    norm = reference.backbone.body.layer2[0].bn1
    norm.running_var[:20] = 1e-4  # where eps shows
    norm.weight[:20] = 1e-2
    spread(reference)
    with torch.no_grad():  # classes that never occurred
        reference.roi_heads.box_predictor.cls_score.bias[COCO_GAPS] = -50.0
    model = ours(in_old_names(reference.state_dict()), tmp_path, 80)
    labels = torch.full((91,), -1)
    labels[[index for index in range(1, 91) if index not in COCO_GAPS]] = torch.arange(80)
    assert_same_results(model, reference, labels)


def test_old_and_new_names_give_the_same_tensors() -> None:
    state = published(detection.maskrcnn_resnet50_fpn, 5).state_dict()
    _, expected, *_ = convert("torchvision", state, "test")
    _, tensors, *_ = convert("torchvision", in_old_names(state), "test")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


def test_dead_channels_of_published_files_stay_numbers() -> None:
    state = published(detection.fasterrcnn_resnet50_fpn, 3).state_dict()
    state = in_old_names({name: value for name, value in state.items() if "num_batches_tracked" not in name})
    state["backbone.body.bn1.running_var"][0] = 5.6e-45
    state["backbone.body.bn1.weight"][0] = 0
    state["backbone.body.bn1.running_var"][1] = 0
    state["backbone.body.bn1.weight"][1] = 1e-8
    _, tensors, *_ = convert("torchvision", state, "test")
    assert all(value.isfinite().all() for value in tensors.values())


@pytest.mark.parametrize("name", some(["resnet50", "resnet101"], "resnet50"))
def test_imagenet_files_become_backbones(name: str, tmp_path: Path) -> None:
    state = torchvision.models.get_model(name, weights=None).state_dict()
    kind, tensors, remark, *_ = convert("torchvision", state, "test")
    assert kind == name
    assert "dropped" in remark
    torch.save({"kind": kind, "model": tensors}, tmp_path / "out.pt")
    loaded = ResNetConfig(name=name, weights=tmp_path / "out.pt").build().state_dict()
    assert loaded.keys() == {key for key in state if not re.search(r"^fc\.|num_batches_tracked$", key)}
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_weights_for_other_classes_leave_out_the_classifiers(tmp_path: Path) -> None:
    reference = published(detection.fasterrcnn_resnet50_fpn, 5)
    for left_out in ((), ("box_head.classifier", "box_head.deltas")):  # by itself, or as told
        model = ours(reference.state_dict(), tmp_path, 7, left_out)
        assert torch.equal(model.box_head.fc2.weight, reference.roi_heads.box_head.fc7.weight)
        assert not model.box_head.classifier.bias.any()


def refusal(state: State) -> str:
    with pytest.raises(UserError) as caught:
        convert("torchvision", state, "file.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fasterrcnn_resnet50_fpn_v2", "file.pth: holds one of the _v2 detectors"),
        ("maskrcnn_resnet50_fpn_v2", "_v2"),
        ("fasterrcnn_mobilenet_v3_large_fpn", "MobileNet"),
        ("retinanet_resnet50_fpn", "one-stage"),
        ("ssd300_vgg16", "one-stage"),
        ("keypointrcnn_resnet50_fpn", "Keypoint R-CNN"),
        ("resnet34", "holds resnet34, which is not supported; give resnet50 or resnet101"),
        ("resnet152", "holds resnet152"),
        ("resnext50_32x4d", "ResNeXt"),
        ("wide_resnet50_2", "wide ResNet"),
        ("mobilenet_v2", "holds no ResNet, but features.0.0.weight"),
    ],
)
def test_other_networks_are_refused_by_name(name: str, message: str) -> None:
    options = {"weights_backbone": None} if hasattr(detection, name) else {}
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None, **options).state_dict()
    assert message in refusal(state)


def test_what_is_missing_left_over_or_of_another_shape_is_named() -> None:
    with torch.device("meta"):
        state = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()

    def without(beginning: str) -> State:
        return {name: value for name, value in state.items() if not name.startswith(beginning)}

    assert "1 unknown tensors (rpn.head.extra)" in refusal({**state, "rpn.head.extra": torch.zeros(1)})
    assert "1 tensors missing (neck.outputs.2.bias)" in refusal(without("backbone.fpn.layer_blocks.2.0.bias"))
    assert "2 tensors missing (mask_head.upsampler" in refusal(without("roi_heads.mask_predictor.conv5"))
    assert "holds no classifier of boxes" in refusal(without("roi_heads"))
    agnostic = {**state, "roi_heads.box_predictor.bbox_pred.weight": torch.zeros(4, 1024)}
    assert "has 3 outputs for classes, but box_head.deltas.weight is [4, 1024]" in refusal(agnostic)
    twice = {**state, "rpn.head.conv.weight": torch.zeros(256, 256, 3, 3)}
    assert "rpn.head.conv.weight" in refusal(twice)
    layered = {**state, "rpn.head.cls_logits.weight": torch.zeros(5, 256, 1, 1)}
    assert "rpn.objectness.weight [5, 256, 1, 1], here [3, 256, 1, 1]" in refusal(layered)


@pytest.mark.parametrize(
    ("file", "build"),
    [
        ("det_torchvision.yaml", detection.fasterrcnn_resnet50_fpn),
        ("inst_torchvision.yaml", detection.maskrcnn_resnet50_fpn),
    ],
)
def test_configs_are_those_of_the_published_detectors(file: str, build: Callable[..., nn.Module]) -> None:
    with torch.device("meta"):
        state = build(weights=None, weights_backbone=None).state_dict()
    config = TypeAdapter(ModelConfig).validate_python(described(convert("torchvision", state, "test").remark))
    assert load_experiment(ROOT / "configs" / file).model == config
