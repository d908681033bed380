"""A small graph that has all that matters for an export: weights, points to read, and axes that may change."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tools.export_onnx.graph import Graph
from tools.export_onnx.write import Exported, export
from upsamplers.sampling import read_points
from workflow.onnx_metadata import Metadata


class Small(nn.Module):
    """A convolution whose result is read at positions that another one predicts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 5, 3, padding=1)
        self.positions = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images [B, 3, H, W] -> logits [B, 5, H, W]."""
        return (read_points(self.features(images), self.positions(images).permute(0, 2, 3, 1), "border") * 2,)


def small_graph() -> Graph:
    axes = {0: "batch", 2: "4*height", 3: "4*width"}
    return Graph(Small().eval(), {"images": torch.randn(2, 3, 8, 12)}, ("logits",), {"images": axes})


def metadata(**changes: object) -> Metadata:
    given = {"format": "raw", "task": "semantic", "model": "small", "upsampler": "none", "classes": ("wall", "rug")}
    given |= {"things": (), "max_depth": None, "preprocessing": {"size_divisor": 4}, "config": "", "licence": None}
    return Metadata(**(given | {"sampling": "gather", "opset": None, "precision": "fp32"} | changes))


def write(path: Path, *, dynamic: bool = False, cases: list[dict[str, Tensor]] | None = None, **changes) -> Exported:
    """Export the small graph, proven on three inputs unless others are given."""
    graph = small_graph()
    sizes = [(2, 8, 12), (1, 16, 4), (3, 4, 20)] if dynamic else 3 * [(2, 8, 12)]
    if cases is None:
        cases = [{"images": torch.randn(batch, 3, *size)} for batch, *size in sizes]
    return export(graph, metadata(**changes), path, cases, dynamic=dynamic)
