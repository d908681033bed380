"""ResNet-50 and ResNet-101 of torchvision. Our names are the same; timm and mmdetection use them too."""

import re

import torch

from errors import UserError
from models.backbones.resnet import FixedBatchNorm2d, ResNet
from published.converters.tensors import Converted, State, check_leftovers, list_names
from storage import check_state

OFFERED = ("resnet50", "resnet101")


def convert(state: State, where: object) -> Converted:
    """Convert an ImageNet classifier, without its last layer."""
    remaining = dict(state)
    name, model = extract_resnet(remaining, "", where)
    remark = check_leftovers(
        remaining, [key for key in remaining if key.startswith("fc.") or is_batch_counter(key)], where
    )
    with torch.device("meta"):
        check_state(ResNet(name, frozen=0).state_dict(), model, where)
    return Converted(name, model, f"for model.backbone.weights; {remark}")


def extract_resnet(remaining: State, prefix: str, where: object) -> tuple[str, State]:
    """Move the tensors of a ResNet out of `remaining`. Return its name, and the tensors under our names.

    Raises UserError for other networks.
    """
    name = _name(remaining, prefix, where)
    with torch.device("meta"):
        names = ResNet(name, frozen=0).state_dict().keys()
    return name, {key: remaining.pop(prefix + key) for key in names if prefix + key in remaining}


def is_batch_counter(name: str) -> bool:
    """Whether a tensor is the batch counter of a BatchNorm, which our models do not have."""
    return name.endswith(".num_batches_tracked")


def add_eps(model: State) -> None:
    """Change the weights of normalisations that divided by √var so that division by √(var + eps) gives the same result.

    The weights are changed, not the variances, since dead channels have variances far below eps.
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
        raise UserError(where, f"holds no ResNet, but {list_names(list(state))}", "check --from")
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    name = f"resnet{2 + (3 if bottleneck else 2) * sum(map(bool, blocks))}"  # the number counts convolutions and fc
    if inner.shape[:2] != (64, 64):
        name = f"a ResNeXt or wide ResNet ({name} with other widths)"
    if name not in OFFERED:
        raise UserError(where, f"holds {name}, which is not supported", f"give {' or '.join(OFFERED)}")
    return name
