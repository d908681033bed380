"""`tools.verify_export` compares what a runtime gives with what PyTorch gave, and needs no PyTorch itself."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from errors import UserError
from tests.conftest import ROOT
from tools.verify_export import __main__ as verify_export


@pytest.fixture
def file(tmp_path):
    """A model that doubles its input, and a reference of it."""
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("images", "logits")]
    node = helper.make_node("Mul", ["images", "two"], ["logits"])
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    images = np.array([[1, -2, 3]], np.float32)
    arrays = {"0/inputs/images": images, "0/outputs/logits": 2 * images}
    np.savez(tmp_path / "reference.npz", precision=np.array("fp32"), **arrays)
    return tmp_path / "model.onnx"


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["verify_export", *map(str, words)])
    verify_export.main()


def test_a_right_file_agrees(monkeypatch, capsys, file):
    call(monkeypatch, file, "--reference", file.with_name("reference.npz"))
    assert "logits: 0, relative 0, 0 % of the labels" in capsys.readouterr().out


def test_a_wrong_file_is_named(monkeypatch, file):
    model = onnx.load(file)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(2.1, np.float32), "two"))
    onnx.save(model, file)
    with pytest.raises(UserError, match=r"model\.onnx: differs from PyTorch: input 0, logits: 0\.3, relative 0\.05"):
        call(monkeypatch, file, "--reference", file.with_name("reference.npz"))


@pytest.mark.parametrize("factor", [2, 2.1])
def test_outputs_of_other_runtimes_are_read(monkeypatch, capsys, file, factor):
    values = [factor * value for value in (1, -2, 3)]
    output = file.with_name("outputs.json")
    output.write_text(json.dumps([{"name": "logits", "dimensions": "1x3", "values": values}]))
    words = (file, "--reference", file.with_name("reference.npz"), "--outputs", output)
    if factor == 2:
        call(monkeypatch, *words)
        assert "agrees with PyTorch" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="differs from PyTorch"):
            call(monkeypatch, *words)


def test_inputs_are_written_as_raw_bytes(monkeypatch, capsys, file, tmp_path):
    call(monkeypatch, file, "--reference", file.with_name("reference.npz"), "--write-inputs", tmp_path / "raw")
    assert np.fromfile(tmp_path / "raw/0_images.bin", np.float32).tolist() == [1, -2, 3]
    assert "--shapes=images:1x3" in capsys.readouterr().out


def test_it_starts_without_pytorch(file):
    code = "import sys; sys.modules['torch'] = None; import runpy; "
    code += "runpy.run_module('tools.verify_export.__main__', run_name='__main__')"
    words = [sys.executable, "-c", code, file, "--reference", file.with_name("reference.npz")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "agrees with PyTorch" in done.stdout


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_a_damaged_reference_is_refused(monkeypatch, file, content):
    file.with_name("reference.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"reference\.npz: is not a reference"):
        call(monkeypatch, file, "--reference", file.with_name("reference.npz"))


IMAGES = np.array([[1, -2, 3]], np.float32)
CASE = {"0/inputs/images": IMAGES, "0/outputs/logits": 2 * IMAGES}


@pytest.mark.parametrize("arrays", [{}, {"0/inputs/images": IMAGES}, {"0/outputs/logits": IMAGES}])
def test_a_reference_that_proves_nothing_is_refused(monkeypatch, file, arrays):
    np.savez(file.with_name("reference.npz"), precision=np.array("fp32"), **arrays)
    with pytest.raises(UserError, match=r"is not a reference \(it lacks"):
        call(monkeypatch, file, "--reference", file.with_name("reference.npz"))


def test_a_reference_of_an_unknown_precision_is_refused(monkeypatch, file):
    np.savez(file.with_name("reference.npz"), precision=np.array("fp8"), **CASE)
    with pytest.raises(UserError, match=r"is not a reference \(it lacks"):
        call(monkeypatch, file, "--reference", file.with_name("reference.npz"))


@pytest.mark.parametrize("count", [1, 3])
def test_each_input_needs_its_output(monkeypatch, file, count):
    more = {key.replace("0", "1", 1): value for key, value in CASE.items()}
    np.savez(file.with_name("reference.npz"), precision=np.array("fp32"), **CASE, **more)
    output = file.with_name("output.npz")
    np.savez(output, logits=2 * IMAGES)
    with pytest.raises(UserError, match=f"--outputs: names {count} files, and the reference has 2 inputs; name one"):
        call(monkeypatch, file, "--reference", file.with_name("reference.npz"), "--outputs", *count * [output])


def test_outputs_without_a_shape_are_refused(monkeypatch, file):
    output = file.with_name("outputs.json")
    output.write_text(json.dumps([{"name": "logits", "dimensions": None, "values": [1]}]))
    with pytest.raises(UserError, match="holds no outputs"):
        call(monkeypatch, file, "--reference", file.with_name("reference.npz"), "--outputs", output)


def test_a_folder_that_cannot_be_made_is_refused(monkeypatch, file):
    with pytest.raises(UserError, match=r"--write-inputs .*: cannot be written"):
        call(monkeypatch, file, "--reference", file.with_name("reference.npz"), "--write-inputs", file)


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"format": "raw"}'])
def test_a_file_that_says_too_little_of_itself_is_refused(monkeypatch, file, said):
    model = onnx.load(file)
    helper.set_model_props(model, {"denseup": said})
    onnx.save(model, file)
    with pytest.raises(UserError, match=r"is not a file of tools\.export_onnx"):
        call(monkeypatch, file)
