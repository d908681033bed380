"""Every upsampler as an ONNX file: the numbers of PyTorch, free sizes, and ONNX's own operators alone."""

import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.tools.export_onnx.small_graph import metadata
from tools.export_onnx.graph import Graph
from tools.export_onnx.write import export
from upsamplers import NAMES, build_upsampler

SMALL = {"carafe": {"kernel": 3}, "fade": {"kernel": 3, "embedding": 8}, "sapa": {"kernel": 3, "embedding": 8}}
SMALL |= {"sapa-d": {"points": 2, "embedding": 4}, "fade-lite": {"kernel": 3}, "resfu": {"mid_channels": 16}}
SCALE_TWO = {"deconv", "indexnet", "a2u", "freqfusion"}
LEARNED_POINTS = ("naive", "dysample", "sapa-d", "fam", "lda_aqu", "freqfusion")

pytestmark = pytest.mark.slow  # tracing takes seconds to minutes


class Module(nn.Module):
    def __init__(self, name: str, scale: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.upsampler = build_upsampler({"name": name, **SMALL.get(name, {})}, 16, 16, scale)
        for parameter in self.upsampler.parameters():  # away from an initial state in which all points are centres
            if parameter.ndim == 4 and name.startswith(LEARNED_POINTS):
                nn.init.normal_(parameter, std=0.1)

    def forward(self, x: Tensor, guide: Tensor) -> tuple[Tensor, ...]:
        return (self.upsampler(x, guide),)


def case(scale: int, batch: int, height: int, width: int) -> dict[str, Tensor]:
    return {"x": torch.randn(batch, 16, height, width), "guide": torch.randn(batch, 16, scale * height, scale * width)}


def graph(name: str, scale: int) -> Graph:
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    axes["guide"] = {0: "batch", 2: f"{scale}*height", 3: f"{scale}*width"}
    return Graph(Module(name, scale).eval(), case(scale, 2, 6, 7), ("y",), axes)


@pytest.mark.parametrize("name", NAMES)
def test_one_file_serves_all_sizes(tmp_path, name):
    path = tmp_path / "up.onnx"
    cases = [case(2, 2, 6, 7), case(2, 1, 9, 5), case(2, 3, 3, 11)]
    done = export(graph(name, 2), metadata(), path, cases, dynamic=True)  # refuses what differs, and custom operators
    assert done.metadata.verified["differences"]["y"]["relative"] < 2e-5
    model = onnx.load(path)
    shape = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type.shape
    assert [side.dim_param or side.dim_value for side in shape.dim] == ["batch", 16, "2*height", "2*width"]
    assert not {"GridSample", "If", "Loop"} & {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SCALE_TWO])
def test_scale_four(tmp_path, name):
    cases = [case(4, 2, 6, 7) for _ in range(3)]
    done = export(graph(name, 4), metadata(), tmp_path / "up.onnx", cases, dynamic=False)
    assert done.metadata.verified["differences"]["y"]["relative"] < 2e-5


@pytest.mark.parametrize("opset", [18, 20])
def test_grid_sample_is_an_operator_of_onnx(tmp_path, opset):
    cases = [case(2, 2, 6, 7)]
    given = metadata(sampling="grid_sample")
    export(graph("dysample", 2), given, tmp_path / "up.onnx", cases, dynamic=False, opset=opset)
    assert "GridSample" in {node.op_type for node in onnx.load(tmp_path / "up.onnx").graph.node}
