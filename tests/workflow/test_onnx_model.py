"""An exported file in the place of a model: what it predicts, what it costs to be wrong about it."""

import dataclasses
import json
import sys

import numpy as np
import onnx
import pytest
import torch

from errors import UserError
from experiment import load_experiment
from predictor import Predictor
from structures import Batch, Target
from tests.conftest import ROOT, TINY, read
from tests.models.test_predict_tensors import CASES, SIZE, UNPADDED, check_equal, model_and_batch
from tests.onnx_files import export_whole, metadata_of
from workflow.onnx_model import OnnxModel, prediction_of
from workflow.trained import load_trained

LABEL = 3


@pytest.fixture
def constant(scenes, tmp_path):
    """Write a file, without a network, that takes images of 64 x 64 and gives every pixel the same label."""
    helper, INT64 = onnx.helper, onnx.TensorProto.INT64
    overrides = [*TINY, f"data.root={scenes}/ADEChallengeData2016"]
    experiment = load_experiment(ROOT / "configs/small/seg.yaml", overrides)
    model = experiment.build_model(pretrained=False)

    def write(**changes: object):
        label = helper.make_tensor("value", INT64, [1], [LABEL])
        inputs = [("images", onnx.TensorProto.FLOAT, [1, 3, 64, 64]), ("unpadded", INT64, [2]), ("size", INT64, [2])]
        graph = helper.make_graph(
            [helper.make_node("ConstantOfShape", ["size"], ["semantic"], value=label)],
            "constant",
            [helper.make_tensor_value_info(*item) for item in inputs],
            [helper.make_tensor_value_info("semantic", INT64, ["h", "w"])],
        )
        file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        helper.set_model_props(
            file, {"denseup": dataclasses.replace(metadata_of(experiment, model), **changes).to_json()}
        )
        onnx.save(file, tmp_path / "constant.onnx")
        return tmp_path / "constant.onnx"

    return write


def test_it_is_scored_like_a_checkpoint(constant, here, tmp_path):
    here("eval", "--onnx", constant(), "--json", tmp_path / "result.json")
    result = read(tmp_path / "result.json")
    accuracies = [record["Acc"] for record in result["per_class"]]
    assert accuracies[LABEL] == 100
    assert max(accuracies[:LABEL]) == 0
    assert result["num_images"] == 5


def test_pictures_of_any_size_up_to_that_of_the_file_are_predicted(constant):
    predictor = Predictor(constant())
    assert (predictor(np.zeros((64, 50, 3), np.uint8)).semantic == np.full((64, 50), LABEL)).all()
    with pytest.raises(UserError, match="takes images of 64 x 64, this one is padded to 96 x 64; export it again with"):
        predictor(np.zeros((65, 50, 3), np.uint8))


def test_it_is_not_blended(constant):
    predictor = Predictor(constant(), overrides=["evaluation.inference.windows.size=[32, 32]"])
    with pytest.raises(UserError, match="which are not blended; use the checkpoint"):
        predictor(np.zeros((40, 40, 3), np.uint8))


def test_what_needs_the_model_itself_asks_for_the_checkpoint(constant):
    with pytest.raises(UserError, match="is an exported file, which can only predict; name the checkpoint that it is"):
        load_trained(constant(), None, [])


def test_its_latency_is_measured(constant, monkeypatch, capsys):
    from tools.benchmark.__main__ import main

    monkeypatch.setattr(sys, "argv", ["", "--onnx", str(constant()), "--repeats", "2", "--json"])
    main()
    measured = json.loads(capsys.readouterr().out)
    assert measured["image"] == [64, 64]
    assert measured["ms"]["q1"] <= measured["ms"]["median"] <= measured["ms"]["q3"]
    monkeypatch.setattr(sys, "argv", ["", "--onnx", str(constant()), "--shape", "1", "3", "32", "64"])
    with pytest.raises(UserError, match="image of 32 x 64, it takes 64 x 64"):
        main()


def test_a_wrong_file_is_refused(constant, tmp_path):
    with pytest.raises(UserError, match="raw outputs, which are no predictions; export it again with --full"):
        Predictor(constant(format="raw"))
    with pytest.raises(UserError, match=r"task depth and 0 classes, and the data are .* semantic and 15 classes"):
        Predictor(constant(task="depth", classes=()))
    for config in ("", "[1]"):
        with pytest.raises(UserError, match="holds no configuration; export the model again"):
            Predictor(constant(config=config))
    with pytest.raises(UserError, match=r"argument model.channels=3: cannot change the model of an exported file"):
        Predictor(constant(), overrides=["model.channels=3"])
    (tmp_path / "text.onnx").write_text("no protocol buffer")
    with pytest.raises(UserError, match="is not an ONNX file"):
        Predictor(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="no such file"):
        Predictor(tmp_path / "missing.onnx")


def test_without_onnxruntime_one_line_says_what_to_install(constant, monkeypatch):
    path = constant()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime: not installed; pip install -r requirements-export.txt"):
        OnnxModel(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_exported_model_predicts_what_it_is_exported_from(case, tmp_path):
    model, batch = model_and_batch(case)
    experiment = load_experiment(ROOT / f"configs/small/{case.split()[0]}.yaml")
    exported = OnnxModel(export_whole(experiment, model, (128, 128), tmp_path / "model.onnx"))
    with torch.inference_mode():
        check_equal(exported.predict(batch)[0], model.predict(batch)[0])
        other = Batch(batch.images.flip(3), [(128, 128)], [Target("2", UNPADDED)])
        check_equal(exported.predict(other)[0], model.predict(other)[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["seg", "inst", "pan", "maskformer"])
def test_a_graph_for_any_size_takes_images_that_it_was_not_traced_with(case, tmp_path):
    model, batch = model_and_batch(case)
    experiment = load_experiment(ROOT / f"configs/small/{case.split()[0]}.yaml")
    exported = OnnxModel(export_whole(experiment, model, (192, 128), tmp_path / "model.onnx", dynamic=True))
    with torch.inference_mode():
        check_equal(exported.predict(batch)[0], model.predict(batch)[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["det", "inst", "pan", "maskformer"])
def test_an_image_without_any_object_is_predicted(case, tmp_path):
    model, batch = model_and_batch(case)
    experiment = load_experiment(ROOT / f"configs/small/{case}.yaml")
    if case == "maskformer":
        torch.nn.init.zeros_(model.classifier.weight)
    else:
        model.box_head.classifier.bias.data[-1] = 50  # everything is background
    exported = OnnxModel(export_whole(experiment, model, (128, 128), tmp_path / "model.onnx"))
    sizes = torch.tensor(UNPADDED), torch.tensor(SIZE)
    with torch.inference_mode():
        found, expected = prediction_of(exported.predict_tensors(batch.images, *sizes)), model.predict(batch)[0]
    if case in ("det", "inst"):
        assert len(expected.instances.labels) == 0
    check_equal(found, expected)
