import json
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from reference_mmdet import CARAFE, DYSAMPLE, DYSAMPLE_PLUS_EARLY, State, detector, upsamplers
from torch import nn

from errors import UserError
from models import ModelConfig
from published.converters.sources import convert
from structures import DatasetInfo
from tests.published.converters.renaming import renamed
from tools.convert_weights.__main__ import main
from upsamplers import build_upsampler

NECK, MASK = "neck.upsample_modules.", "roi_head.mask_head.upsample."
# Upsampler i leads from level i + 1 to level i, there as here.
OURS = [
    (r"^neck\.lateral_convs\.(\d)\.conv", r"neck.laterals.\1"),
    (r"^neck\.fpn_convs\.(\d)\.conv", r"neck.outputs.\1"),
    (r"^neck\.upsample_modules", "neck.upsamplers"),
    (r"^rpn_head\.rpn_conv", "rpn.conv"),
    (r"^rpn_head\.rpn_cls", "rpn.objectness"),
    (r"^rpn_head\.rpn_reg", "rpn.deltas"),
    (r"^roi_head\.bbox_head\.shared_fcs\.0", "box_head.fc1"),
    (r"^roi_head\.bbox_head\.shared_fcs\.1", "box_head.fc2"),
    (r"^roi_head\.bbox_head\.fc_cls", "box_head.classifier"),
    (r"^roi_head\.bbox_head\.fc_reg", "box_head.deltas"),
    (r"^roi_head\.mask_head\.convs\.(\d)\.conv", r"mask_head.convs.\1"),
    (r"^roi_head\.mask_head\.upsample\.", "mask_head.upsampler."),
    (r"^roi_head\.mask_head\.conv_logits", "mask_head.classifier"),
    (r"^semantic_head\.conv_upsample_layers\.(\d)\.conv\.(\d)\.conv", r"semantic_head.units.\1.\2.0"),
    (r"^semantic_head\.conv_upsample_layers\.(\d)\.conv\.(\d)\.gn", r"semantic_head.units.\1.\2.1"),
    (r"^semantic_head\.conv_logits", "semantic_head.classifier"),
]


def without(state: State, beginning: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(beginning)}


def carafe_masks(state: State) -> State:
    module = {name.replace(".0.", "."): value for name, value in upsamplers(1, MASK, **CARAFE).items()}
    return without(state, MASK) | module


def described(remark: str) -> dict:
    """The model that a remark describes."""
    return json.loads(re.search(r"model: (\{.*\});", remark)[1])


# State dicts are drawn where they are asked for, not while tests are collected.
CASES: dict[str, tuple[Callable[[], State], dict]] = {
    "plain": (lambda: detector(num_classes=3), {"name": "faster_rcnn", "neck": "fpn", "upsampler": "nearest"}),
    "dysample": (
        lambda: detector(num_classes=3, masks=True) | upsamplers(3, NECK, **DYSAMPLE),
        {"name": "mask_rcnn", "neck": "fpn", "upsampler": "dysample"},
    ),
    "dysample-early": (
        lambda: detector(num_classes=3) | upsamplers(3, NECK, **DYSAMPLE_PLUS_EARLY),
        {"name": "faster_rcnn", "neck": "fpn", "upsampler": {"name": "dysample+", "scope_bias": True}},
    ),
    "carafe": (
        lambda: carafe_masks(detector(num_classes=3, masks=True, p6=True) | upsamplers(4, NECK, **CARAFE)),
        {"name": "mask_rcnn", "neck": "fpn_p6", "upsampler": "carafe", "mask_upsampler": "carafe"},
    ),
    "panoptic": (
        lambda: detector(num_classes=3, masks=True, stuff=2) | upsamplers(3, NECK, **DYSAMPLE),
        {"name": "panoptic_fpn", "neck": "fpn", "upsampler": "dysample"},
    ),
    "p6-r101": (
        lambda: detector(num_classes=80, depth=101, p6=True),
        {"name": "faster_rcnn", "backbone": "resnet101", "neck": "fpn_p6", "upsampler": "nearest"},
    ),
}


@lru_cache(2)
def state_of(case: str) -> State:
    return CASES[case][0]()


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_arrives_at_its_place_and_the_remark_describes_the_model(case: str) -> None:
    state, model = state_of(case), CASES[case][1]
    kind, tensors, remark, *_ = convert("mmdet", state, "test")
    expected = {"backbone": "resnet50"} | model
    assert described(remark) == expected
    assert kind == f"{expected['name']}_{expected['backbone']}_{expected['neck']}"
    stuff = len(state.get("semantic_head.conv_logits.weight", [None])) - 1
    assert remark.startswith(f"{len(state['roi_head.bbox_head.fc_cls.weight']) - 1 + stuff} classes,")
    wanted = {name: value for name, value in renamed(state, *OURS).items() if not name.endswith("num_batches_tracked")}
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(tensors[name], value), name


def test_a_converted_file_loads_as_model_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of("dysample")
    meta = {"CLASSES": ("a", "b", "c"), "config": "model = dict()", "epoch": 12}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "in.pth")
    files = [str(tmp_path / "in.pth"), str(tmp_path / "out.pt")]
    monkeypatch.setattr(sys, "argv", ["convert_weights", "--from", "mmdet", *files])
    main()
    options = described(convert("mmdet", state, "test").remark) | {"weights": tmp_path / "out.pt"}
    config = TypeAdapter(ModelConfig).validate_python(options)
    model = config.build(DatasetInfo("instance", "test", ("a", "b", "c"))).state_dict()
    for name, value in renamed(state, *OURS).items():
        assert name.endswith("num_batches_tracked") or torch.equal(model[name], value), name


@pytest.mark.parametrize("upsampler", ["deconv", "pixelshuffle", "fade", "sapa", "dysample-s+"])
def test_other_upsamplers_are_recognised_too(upsampler: str) -> None:
    torch.manual_seed(0)
    modules = nn.ModuleList(build_upsampler(upsampler, 256) for _ in range(3)).state_dict()
    state = state_of("plain") | {NECK + name: value for name, value in modules.items()}
    _, tensors, remark, *_ = convert("mmdet", state, "test")
    assert described(remark)["upsampler"] == upsampler
    for name, value in modules.items():
        assert torch.equal(tensors[f"neck.upsamplers.{name}"], value), name


def refusal(state: State) -> str:
    with pytest.raises(UserError) as caught:
        convert("mmdet", state, "file.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_left_over_or_of_another_shape_is_named() -> None:
    plain, masks = state_of("plain"), state_of("dysample")
    assert "1 unknown tensors (neck.extra.weight)" in refusal({**plain, "neck.extra.weight": torch.zeros(1)})
    assert "2 tensors missing (rpn.objectness.weight, rpn.objectness.bias)" in refusal(
        without(plain, "rpn_head.rpn_cls")
    )
    assert "2 tensors missing (mask_head.upsampler" in refusal(without(masks, MASK))
    assert "tensors missing (backbone.layer3.2.conv3.weight)" in refusal(without(plain, "backbone.layer3.2.conv3"))
    assert "holds no classifier of boxes" in refusal(without(plain, "roi_head"))
    assert "unknown tensors (neck.upsample_modules.1" in refusal(without(masks, f"{NECK}0."))
    unknown = upsamplers(3, NECK, offset__weight=(16, 256, 3, 3))
    assert "3 unknown tensors (neck.upsample_modules.0.offset.weight" in refusal(plain | unknown)
    semantic = {"semantic_head.conv_logits.weight": torch.zeros(54, 128, 1, 1)}
    assert "tensors missing (mask_head.convs.0.weight" in refusal(plain | semantic)
    agnostic = plain | {"roi_head.bbox_head.fc_reg.weight": torch.zeros(4, 1024)}
    assert "box_head.deltas.weight [4, 1024], here [12, 1024]" in refusal(agnostic)


def test_other_networks_are_refused_by_name() -> None:
    plain = state_of("plain")
    old = {name.removeprefix("roi_head."): value for name, value in plain.items()}
    assert "file.pth: holds a detector of mmdetection 1" in refusal(old)
    cascade = {name.replace("bbox_head", "bbox_head.0"): value for name, value in plain.items()}
    assert "a cascade" in refusal(cascade)
    transformer = {**plain, "panoptic_head.cls_embed.weight": torch.zeros(134, 256)}
    assert "a transformer for panoptic segmentation" in refusal(transformer)
    retina = without(without(plain, "roi_head"), "rpn_head") | {"bbox_head.retina_cls.weight": torch.zeros(1)}
    assert "one-stage" in refusal(retina)
    assert "holds no ResNet, but a.weight; check --from" in refusal({"a.weight": torch.zeros(1)})
    zero = {name: torch.zeros_like(value) for name, value in plain.items() if name.endswith("running_mean")}
    assert "caffe-style" in refusal(plain | zero)
