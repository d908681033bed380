"""ResNet-50 and ResNet-101 of torchvision, whose names are ours; timm and mmdetection use them too."""

import re

import torch

from errors import UserError
from models.backbones.resnet import FixedBatchNorm2d, ResNet
from storage import check_state
from tools.convert_weights.tensors import Converted, State, account, first

OFFERED = ("resnet50", "resnet101")


def convert(state: State, where: object) -> Converted:
    """An ImageNet classifier without its last layer."""
    left = dict(state)
    name, model = take_resnet(left, "", where)
    remark = account(left, [key for key in left if key.startswith("fc.") or counts_batches(key)], where)
    with torch.device("meta"):
        check_state(ResNet(name, frozen=0).state_dict(), model, where)
    return Converted(name, model, f"for model.backbone.weights; {remark}")


def take_resnet(left: State, prefix: str, where: object) -> tuple[str, State]:
    """Move the tensors of a ResNet out of `left`; its name, and they by ours. Raises UserError for other networks."""
    name = _name(left, prefix, where)
    with torch.device("meta"):
        names = ResNet(name, frozen=0).state_dict().keys()
    return name, {key: left.pop(prefix + key) for key in names if prefix + key in left}


def counts_batches(name: str) -> bool:
    """Whether a tensor is a BatchNorm's count of batches, which ours does not keep."""
    return name.endswith(".num_batches_tracked")


def add_eps(model: State) -> None:
    """Change the normalisations' weights so that ours, which divide by √(var + eps), do what a division by √var did.

    It is the weights that change, not the variances: dead channels have some far below eps.
    """
    eps = FixedBatchNorm2d(1).eps
    for name in [name for name in model if name.endswith(".running_var")]:
        weight = f"{name.removesuffix('running_var')}weight"
        if weight in model:
            variance = model[name].double().clamp(min=1e-45)
            model[weight] = (model[weight].double() * ((variance + eps) / variance).sqrt()).float()


def _name(state: State, prefix: str, where: object) -> str:
    blocks = [re.match(rf"{re.escape(prefix)}layer\d\.\d+\.conv1\.weight$", name) for name in state]
    inner = state.get(f"{prefix}layer1.0.conv2.weight")
    if inner is None or f"{prefix}conv1.weight" not in state:
        raise UserError(where, f"holds no ResNet, but {first(list(state))}", "check --from")
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    name = f"resnet{2 + (3 if bottleneck else 2) * sum(map(bool, blocks))}"  # counted are convolutions and fc
    if inner.shape[:2] != (64, 64):
        name = f"a ResNeXt or wide ResNet ({name} with other widths)"
    if name not in OFFERED:
        raise UserError(where, f"holds {name}, which is no backbone here", f"give {' or '.join(OFFERED)}")
    return name
