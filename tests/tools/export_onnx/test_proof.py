"""A file is proven by running it, says how exactly it agrees, and is removed if it does not."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from errors import UserError
from models.backbones.swin import SwinConfig
from models.base import FeatureInfo
from tests.conftest import ROOT
from tests.tools.export_onnx.small_graph import metadata, small_graph, write
from tools.export_onnx import write as writing
from tools.export_onnx.graph import check_dynamic, free_size
from tools.export_onnx.proof import prove
from tools.verify_export.compare import TOLERANCES, compare, worst
from tools.verify_export.operators import custom_operators
from workflow.onnx_metadata import read_metadata


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The program of the small graph at one size, and what `write_onnx` makes of it: file and result."""
    path, graph = tmp_path_factory.mktemp("traced") / "small.onnx", small_graph()
    program = writing.trace(graph, metadata(), dynamic=False)
    return program, path, writing.write_onnx(program, graph, path, writing.DEFAULT_OPSET)


@pytest.fixture
def written_once(monkeypatch, traced):
    """Exports take the one program and file, which saves seconds for each."""
    program, path, result = traced

    def copy(program, graph, target, opset):
        onnx.save(onnx.load(path), target)
        return result

    monkeypatch.setattr(writing, "trace", lambda *_, **__: program)
    monkeypatch.setattr(writing, "write_onnx", copy)


@pytest.mark.slow
def test_a_file_of_free_sizes_serves_all_and_knows_its_shapes_by_name(tmp_path):
    path = tmp_path / "small.onnx"
    write(path, dynamic=True)
    assert read_metadata(path).verified["inputs"] == [[2, 3, 8, 12], [1, 3, 16, 4], [3, 3, 4, 20]]
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    axes = [axis.dim_param or axis.dim_value for axis in model.graph.output[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 5, "4*height", "4*width"]


@pytest.mark.usefixtures("written_once")
def test_the_file_says_what_it_is_and_how_exactly_it_agrees(tmp_path):
    write(tmp_path / "small.onnx")
    said = read_metadata(tmp_path / "small.onnx")
    assert said.verified["inputs"] == 3 * [[2, 3, 8, 12]]
    assert said.verified["differences"]["logits"]["relative"] < 1e-5
    assert said.verified["differences"]["logits"]["labels"] == 0
    assert said.classes == ("wall", "rug")
    assert said.opset == 18


def test_the_file_has_plain_operators_and_does_not_tell_where_it_was_made(traced):
    path = traced[1]
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} == {""}
    assert "Gather" in {node.op_type for node in nodes}
    assert "GridSample" not in {node.op_type for node in nodes}
    assert str(ROOT).encode() not in path.read_bytes()
    assert b"stack_trace" not in path.read_bytes()


def damage(monkeypatch, shape):
    """Let the next ONNX file have one wrong number, in its weights of this shape."""
    save = onnx.save

    def save_damaged(model, path):
        for value in model.graph.initializer:
            if tuple(value.dims) == shape:
                array = numpy_helper.to_array(value).copy()
                array.flat[0] += 0.5
                value.CopyFrom(numpy_helper.from_array(array, value.name))
        save(model, path)

    monkeypatch.setattr(onnx, "save", save_damaged)


@pytest.mark.usefixtures("written_once")
@pytest.mark.parametrize(("shape", "node"), [((5, 3, 3, 3), "features"), ((2, 3, 1, 1), "positions")])
def test_a_broken_file_is_removed_and_its_first_wrong_node_named(monkeypatch, tmp_path, shape, node):
    damage(monkeypatch, shape)
    with pytest.raises(UserError, match=rf"differs from PyTorch at node \S+ \(Conv in {node}\)") as error:
        write(tmp_path / "broken.onnx")
    assert "it was removed" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("written_once")
def test_without_proof_the_file_says_so(tmp_path):
    write(tmp_path / "small.onnx", cases=[])
    assert read_metadata(tmp_path / "small.onnx").verified is False


@pytest.mark.usefixtures("written_once")
def test_a_file_that_does_not_run_at_other_sizes_is_not_proven(tmp_path):
    with pytest.raises(UserError, match=r"cannot run it for an input of 1 x 3 x 4 x 4 .* it was removed"):
        write(tmp_path / "small.onnx", cases=[{"images": torch.randn(1, 3, 4, 4)}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("written_once")
def test_programs_have_the_same_proof(tmp_path):
    path, graph = tmp_path / "small.pt2", small_graph()
    done = write(path)
    assert done.metadata.verified["runtime"].startswith("torch")
    content = {"denseup": ""}
    torch.export.load(path, extra_files=content)
    assert '"relative"' in content["denseup"]
    with torch.no_grad():
        graph.module.features.weight[0, 0, 0, 0] += 1  # now PyTorch has other numbers than the file
        changed = torch.export.export(graph.module, tuple(graph.inputs.values()))
    with pytest.raises(UserError, match=r"at node conv2d \(aten.conv2d"):
        prove(path, graph, [graph.inputs], "fp32", changed)


@pytest.mark.usefixtures("written_once")
def test_openvino_has_the_same_proof(tmp_path):
    pytest.importorskip("openvino")
    done = write(tmp_path / "small.xml")
    assert done.metadata.verified["runtime"].startswith("openvino")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small.bin", "small.xml"]


def test_custom_operators_are_found_within_branches():
    node = onnx.helper.make_node("Carafe", ["x"], ["y"], domain="mmcv")
    inner = onnx.helper.make_graph([node], "then", [], [])
    outer = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = onnx.helper.make_model(onnx.helper.make_graph([outer], "g", [], []))
    assert custom_operators(model) == ["mmcv::Carafe"]


def test_models_of_one_size_are_refused_with_free_sizes():
    given = {"depths": (1, 1, 1, 1), "channels": 32, "weights": None}
    swin = SwinConfig(name="swin_t", **given).build(pretrained=False)
    with pytest.raises(UserError, match="--dynamic: Swin computes its windows for one size"):
        check_dynamic(SimpleNamespace(backbone=swin))


@pytest.mark.parametrize(("size", "traced"), [((64, 96), (128, 128)), ((800, 1088), (800, 1088))])
def test_free_sizes_are_traced_with_no_map_of_one_pixel(size, traced):
    levels = [FeatureInfo(8, stride) for stride in (4, 8, 16, 32)]
    assert free_size(SimpleNamespace(backbone=SimpleNamespace(feature_info=levels)), size) == traced


def test_metadata_survive_a_round_trip_and_foreign_files_are_refused(tmp_path):
    given = metadata(classes=("a",), things=(True,), verified={"inputs": [[1]]})
    assert type(given).from_json(given.to_json(), "x") == given
    damaged = [{"classes": 3}, {"preprocessing": {}}, {"preprocessing": {"size_divisor": 0}}, {"config": None}]
    damaged = [json.dumps({**json.loads(given.to_json()), **change}) for change in damaged]
    for text in (None, "", "[]", "{}", '{"version": 1}', *damaged):
        with pytest.raises(UserError):
            type(given).from_json(text, "x")
    (tmp_path / "x.onnx").write_bytes(b"no protobuf")
    with pytest.raises(UserError):
        read_metadata(tmp_path / "x.onnx")


def test_differences_are_relative_to_the_largest_value():
    wanted = {"logits": np.array([[[1.0, -4.0]], [[2.0, 3.0]]]).transpose(1, 0, 2), "ids": np.array([1, 2, 3, 4])}
    found = {"logits": wanted["logits"] + np.array([0, 0.2]), "ids": np.array([1, 2, 3, 5])}
    differences = compare(found, wanted)
    assert differences["logits"] == pytest.approx({"absolute": 0.2, "relative": 0.05, "labels": 0, "objects": None})
    assert differences["ids"]["labels"] == 0.25
    assert worst(differences, TOLERANCES["fp32"]) == "logits"
    assert worst(compare(wanted, wanted), TOLERANCES["fp32"]) is None


@pytest.mark.parametrize("bad", [np.array([[np.nan, 1.0]]), np.zeros((1, 3)), None])
def test_what_is_missing_or_no_number_is_beyond_every_tolerance(bad):
    found = {} if bad is None else {"depth": bad}
    assert worst(compare(found, {"depth": np.ones((1, 2))}), TOLERANCES["fp16"]) == "depth"
