"""Faster and Mask R-CNN and Panoptic FPN on ResNet-50 and ResNet-101: torchvision, mmdetection, later work on its code.

The order of anchors, deltas, flattened features of a region and upsamplers is the same as in our models. One exception:
in torchvision the background is the first class, not the last, and it also has boxes and a mask.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import torch

from datasets.coco.dataset import CLASSES
from errors import UserError
from models.panoptic_fpn.model import PanopticFPNConfig
from models.rcnn.model import FasterRCNNConfig, MaskRCNNConfig
from models.wrappers import with_prefix
from published.converters import resnet
from published.converters.tensors import (
    Converted,
    State,
    check_leftovers,
    move_module,
    recognise_upsampler,
)
from storage import check_state
from structures import DatasetInfo

ROWS = {"box_head.classifier": 1, "box_head.deltas": 4, "mask_head.classifier": 1}  # outputs per class
CHANNELS = 256  # of the feature pyramid and of the mask head, in all these networks


@dataclass(frozen=True)
class Layout:
    """A publisher's names for the modules of a detector, by our names; the newer name comes before the older one.

    {i}: counted from 0, {j}: from 1. backbone: prefix of the ResNet. upsamplers: prefix of the upsampler in the pyramid
    from level i + 1 to level i; None if there is none. mask_upsampler: prefix of the upsampler in the mask head.
    others: patterns of names that only another network has, and the name of that network. options: of our model,
    besides those that follow from the tensors.
    """

    backbone: str
    modules: dict[str, tuple[str, ...]]
    upsamplers: str | None
    mask_upsampler: str
    others: dict[str, str]
    options: dict[str, Any]


TORCHVISION = Layout(
    backbone="backbone.body.",
    modules={
        "neck.laterals.{i}": ("backbone.fpn.inner_blocks.{i}.0", "backbone.fpn.inner_blocks.{i}"),
        "neck.outputs.{i}": ("backbone.fpn.layer_blocks.{i}.0", "backbone.fpn.layer_blocks.{i}"),
        "rpn.conv": ("rpn.head.conv.0.0", "rpn.head.conv"),
        "rpn.objectness": ("rpn.head.cls_logits",),
        "rpn.deltas": ("rpn.head.bbox_pred",),
        "box_head.fc1": ("roi_heads.box_head.fc6",),
        "box_head.fc2": ("roi_heads.box_head.fc7",),
        "box_head.classifier": ("roi_heads.box_predictor.cls_score",),
        "box_head.deltas": ("roi_heads.box_predictor.bbox_pred",),
        "mask_head.convs.{i}": ("roi_heads.mask_head.{i}.0", "roi_heads.mask_head.mask_fcn{j}"),
        "mask_head.classifier": ("roi_heads.mask_predictor.mask_fcn_logits",),
    },
    upsamplers=None,
    mask_upsampler="roi_heads.mask_predictor.conv5_mask.",
    others={
        r"backbone\.fpn\.inner_blocks\.\d\.1\.|roi_heads\.box_head\.0\.": "one of the _v2 detectors",
        r"roi_heads\.keypoint_": "a Keypoint R-CNN",
        r"head\.(classification|regression)_head\.": "a one-stage detector (RetinaNet, FCOS or SSD)",
        r"backbone\.(body|features)\.(features\.)?\d": "a detector whose backbone is not a ResNet (MobileNet, VGG)",
    },
    options={
        "rpn": {"anchors": {"rounded": True}},
        "regions": {"aligned": False, "sampling_ratio": 2},
        "box_head": {"smallest": 0.01},
    },
)
# In the semantic head level i has i units (level 0 has one), each of a convolution and its normalisation.
SEMANTIC_UNITS = [(level, step) for level in range(4) for step in range(max(level, 1))]
MMDET = Layout(
    backbone="backbone.",
    modules={
        "neck.laterals.{i}": ("neck.lateral_convs.{i}.conv",),
        "neck.outputs.{i}": ("neck.fpn_convs.{i}.conv",),
        "rpn.conv": ("rpn_head.rpn_conv",),
        "rpn.objectness": ("rpn_head.rpn_cls",),
        "rpn.deltas": ("rpn_head.rpn_reg",),
        "box_head.fc1": ("roi_head.bbox_head.shared_fcs.0",),
        "box_head.fc2": ("roi_head.bbox_head.shared_fcs.1",),
        "box_head.classifier": ("roi_head.bbox_head.fc_cls",),
        "box_head.deltas": ("roi_head.bbox_head.fc_reg",),
        "mask_head.convs.{i}": ("roi_head.mask_head.convs.{i}.conv",),
        "mask_head.classifier": ("roi_head.mask_head.conv_logits",),
        "semantic_head.classifier": ("semantic_head.conv_logits",),
        **{
            f"semantic_head.units.{level}.{step}.{index}": (
                f"semantic_head.conv_upsample_layers.{level}.conv.{step}.{part}",
            )
            for level, step in SEMANTIC_UNITS
            for index, part in enumerate(("conv", "gn"))
        },
    },
    upsamplers="neck.upsample_modules.{i}.",
    mask_upsampler="roi_head.mask_head.upsample.",
    others={
        r"bbox_head\.(shared_fcs|fc_cls)": "a detector of mmdetection 1, whose boxes are computed in another way",
        r"bbox_head\.": "a one-stage detector",
        r"roi_head\.bbox_head\.\d": "a cascade",
        r"panoptic_head\.": "a transformer for panoptic segmentation",
    },
    options={},
)


def convert_torchvision(state: State, where: object) -> Converted:
    """Convert a detector, or a ResNet trained on ImageNet."""
    if not any(re.match(r"(backbone|head|roi_heads)\.", name) for name in state):
        return resnet.convert(state, where)
    backbone, model, remaining = _take(state, TORCHVISION, where)
    remark = _move_background_last(model, where)
    if "rpn.head.conv.weight" in state and not any(map(resnet.is_batch_counter, state)):
        # These are the published files. They are older than the eps in torchvision's frozen batch normalisation.
        resnet.add_eps(model)
        remark += ", normalisation without eps"
    return _finish(backbone, model, remaining, TORCHVISION, remark, where)


def convert_mmdet(state: State, where: object) -> Converted:
    """Convert a detector. Its pyramid and its mask head may have any upsampler that this repository has."""
    backbone, model, remaining = _take(state, MMDET, where)
    if not model.get("backbone.bn1.running_mean", torch.ones(1)).any():  # the statistics are merged into the weights
        what = "has a caffe-style backbone, which has its strides elsewhere and takes BGR images"
        raise UserError(where, what, "give a model with style='pytorch'")
    return _finish(backbone, model, remaining, MMDET, "", where)


def _take(state: State, layout: Layout, where: object) -> tuple[str, State, State]:
    """Return the backbone's name, the tensors under our names (without upsamplers), and the remaining tensors."""
    for pattern, other in layout.others.items():
        if any(re.match(pattern, name) for name in state):
            raise UserError(where, f"holds {other}", "give a Faster R-CNN, Mask R-CNN or Panoptic FPN")
    remaining = dict(state)
    backbone, converted = resnet.extract_resnet(remaining, layout.backbone, where)
    converted = {f"backbone.{name}": value for name, value in converted.items()}
    for ours, names in layout.modules.items():
        for i in range(5) if "{i}" in ours else range(1):
            own = ours.format(i=i)
            for name in names:
                if f"{own}.weight" not in converted:
                    move_module(remaining, (name.format(i=i, j=i + 1),), converted, own)
    return backbone, converted, remaining


def _move_background_last(model: State, where: object) -> str:
    """Bring the class outputs of torchvision into our order. Return a remark if some were left out."""
    number = _number_of_outputs(model, where)
    classes = list(CLASSES) if number == 91 else list(range(1, number))
    for name, rows in ROWS.items():
        for key in (f"{name}.weight", f"{name}.bias"):
            if key not in model:
                continue
            if model[key].shape[:1] != (rows * number,):
                what = f"has {number} outputs for classes, but {key} is {list(model[key].shape)}"
                raise UserError(where, what, "give a detector with outputs of its own for each class")
            order = [*classes, 0] if name == "box_head.classifier" else classes
            model[key] = model[key].unflatten(0, (number, rows))[order].flatten(0, 1)
    return ", those of the ids 1 to 90 that COCO uses" if number == 91 else ""


def _number_of_outputs(model: State, where: object) -> int:
    classifier = model.get("box_head.classifier.weight")
    if classifier is None or classifier.ndim != 2 or len(classifier) < 2:
        raise UserError(where, "holds no classifier of boxes", "give the whole Faster or Mask R-CNN; check --from")
    return len(classifier)


def _finish(backbone: str, model: State, remaining: State, layout: Layout, remark: str, where: object) -> Converted:
    """Add the upsamplers, check that no tensor is missing or left over, and describe the model."""
    num_classes = _number_of_outputs(model, where) - 1
    has_masks = any(name.startswith("mask_head.") for name in model)
    stuff = len(model.get("semantic_head.classifier.weight", [None])) - 1
    name = "mask_rcnn" if has_masks else "faster_rcnn"
    options: dict[str, Any] = {"name": "panoptic_fpn" if stuff else name, "backbone": backbone}
    options |= {"neck": "fpn_p6" if "neck.laterals.4.weight" in model else "fpn", "upsampler": "nearest"}
    if layout.upsamplers:  # if they have no tensors, it is nearest
        prefixes = [layout.upsamplers.format(i=i) for i in range(4 if options["neck"] == "fpn_p6" else 3)]
        options |= _take_upsamplers(remaining, prefixes, model, "neck.upsamplers.{i}.", "upsampler")
    mask_upsampler = with_prefix(remaining, layout.mask_upsampler)
    if "weight" in mask_upsampler and mask_upsampler["weight"].shape[2:] == (
        2,
        2,
    ):  # the deconvolution of the original Mask R-CNN
        move_module(remaining, (layout.mask_upsampler.removesuffix("."),), model, "mask_head.upsampler")
    else:
        options |= _take_upsamplers(remaining, [layout.mask_upsampler], model, "mask_head.upsampler.", "mask_upsampler")
    options |= layout.options
    if "box_head" in options and options["name"] == "mask_rcnn":
        options["box_head"] = {"best_match": True, **options["box_head"]}
    used = check_leftovers(remaining, [name for name in remaining if resnet.is_batch_counter(name)], where)
    info = DatasetInfo(
        "panoptic" if stuff else "instance" if has_masks else "detection",
        name="any",
        classes=tuple(map(str, range(num_classes + stuff))),
        things=(True,) * num_classes + (False,) * stuff,
    )
    record = PanopticFPNConfig if stuff else MaskRCNNConfig if has_masks else FasterRCNNConfig
    with torch.device("meta"):
        check_state(record.model_validate(options).build(info).state_dict(), model, where)
    kind = f"{options['name']}_{backbone}_{options['neck']}"
    remark = f"{info.num_classes} classes{remark}, model: {json.dumps(options)}; {used}"
    return Converted(kind, model, remark, options, info.num_classes)


def _take_upsamplers(remaining: State, prefixes: list[str], model: State, ours: str, key: str) -> dict[str, Any]:
    """Move the tensors of upsamplers from `remaining` to `model`. Return {key: YAML value}, or {} if unknown."""
    stages = [with_prefix(remaining, prefix) for prefix in prefixes]
    found = recognise_upsampler(stages, CHANNELS) if all(stages) else None
    if found is None:
        return {}  # tensors of an unknown upsampler remain, and `check_leftovers` refuses them
    for i, (prefix, stage) in enumerate(zip(prefixes, stages, strict=True)):
        for name in stage:
            del remaining[prefix + name]
        model |= {ours.format(i=i) + name: value for name, value in with_prefix(found[0], f"{i}.").items()}
    return {key: found[1]}
