"""What is exported: a module with named inputs and outputs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError
from models.base import DenseModel
from structures import Size


@dataclass(frozen=True)
class Graph:
    """A module to trace; it takes its inputs in order and returns a tuple of tensors, one for each name in `outputs`.

    inputs: an example of each, by name. dynamic: the axes that may change, by input and axis: a name such as "batch",
    or a multiple of one, "32*height".
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]


class RawOutputs(nn.Module):
    """`outputs` of a model as a module whose result is a tuple. Items of lists follow one another."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: [B, 3, H, W], normalised and padded to multiples of the model's `size_divisor`."""
        return tuple(flatten(self.model.outputs(images)).values())


def flatten(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """Raw outputs by name; a list under a key becomes key_0, key_1 and so on."""
    found: dict[str, Tensor] = {}
    for key, value in outputs.items():
        found |= {key: value} if isinstance(value, Tensor) else {f"{key}_{i}": item for i, item in enumerate(value)}
    return found


def check_dynamic(model: DenseModel) -> None:
    """Raise UserError if a graph of the model serves only one size."""
    if model.backbone.one_size:
        what = f"{type(model.backbone).__name__} computes its windows for one size"
        raise UserError("--dynamic", what, "export each size that you need: --size HEIGHT WIDTH")


def free_size(model: DenseModel, size: Size) -> Size:
    """The size to trace a graph of free sizes with: `size`, or larger, so that no map has a side of 1.

    The tracer takes such a side for one that is always 1.
    """
    least = 4 * model.backbone.feature_info[-1].stride  # detectors have one more level, half as large
    return max(size[0], least), max(size[1], least)


@torch.no_grad()
def raw_graph(model: DenseModel, size: Size, batch: int = 1) -> Graph:
    """The graph of `model.outputs` for images [batch, 3, *size], rounded up to multiples of its `size_divisor`."""
    divisor = model.size_divisor
    height, width = (-(-side // divisor) * divisor for side in size)
    images = torch.randn(batch, model.backbone.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    names = tuple(flatten(model.eval().outputs(images)))
    axes = {0: "batch", 2: f"{divisor}*height", 3: f"{divisor}*width"}
    return Graph(RawOutputs(model).eval(), {"images": images}, names, {"images": axes})
