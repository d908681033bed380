"""All models, small and with random weights, as files that are proven."""

import sys

import onnx
import pytest
import torch

from experiment import load_experiment
from tests.conftest import ROOT
from tools.export_onnx.full import WholePrediction
from tools.export_onnx.graph import raw_graph
from tools.export_onnx.inputs import proof_inputs
from tools.export_onnx.metadata import describe_model
from tools.export_onnx.write import export
from workflow.onnx_metadata import read_metadata

pytestmark = pytest.mark.slow  # tracing takes seconds to minutes

ONE_BLOCK = "model.backbone.depths=[1,1,1,1]"
MIT = "model.backbone={name: mit_b0, weights: null, channels: [8, 16, 40, 64], depths: [1, 1, 1, 1]}"
SETTINGS = dict.fromkeys(["seg", "det", "inst", "pan", "depth", "maskformer"], ONE_BLOCK)
SETTINGS |= dict.fromkeys(["probe_seg", "probe_depth"], MIT)
SWIN = "model.backbone={name: swin_t, channels: 32, depths: [1, 1, 2, 1], window: 3, weights: null}"


def build(cfg, *settings):
    torch.manual_seed(0)
    demo, recipe = (ROOT / f"{folder}/{cfg}.yaml" for folder in ("configs/small", "configs"))
    experiment = load_experiment(demo if demo.exists() else recipe, ["data.root=/proc/nowhere", *settings])
    return experiment, experiment.build_model(pretrained=False).eval().requires_grad_(False)


def write(path, cfg, *settings, dynamic=False, precision="fp32"):
    experiment, model = build(cfg, *settings)
    graph = raw_graph(model, (64, 96), batch=2 if dynamic else 1)
    return prove(path, experiment, model, graph, dynamic=dynamic, precision=precision)


def prove(path, experiment, model, graph, *, dynamic, precision="fp32"):
    """Export with the proof. Raises UserError if the file does not agree with PyTorch."""
    options = {"sampling": "gather", "precision": precision}
    metadata = describe_model(experiment, model, path, whole=isinstance(graph.module, WholePrediction), **options)
    cases = proof_inputs(experiment, graph, model.size_divisor, dynamic=dynamic)
    return export(graph, metadata, path, cases, dynamic=dynamic)


@pytest.mark.parametrize("cfg", SETTINGS)
def test_a_model_is_proven_at_one_size(tmp_path, cfg):
    path = tmp_path / "model.onnx"
    done = write(path, cfg, SETTINGS[cfg])
    assert all(each["relative"] < 1e-4 for each in done.metadata.verified["differences"].values())
    assert read_metadata(path) == done.metadata
    assert {node.domain for node in onnx.load(path).graph.node} == {""}


@pytest.mark.parametrize("cfg", SETTINGS)
def test_a_model_is_proven_at_free_sizes(tmp_path, cfg):
    done = write(tmp_path / "model.onnx", cfg, SETTINGS[cfg], dynamic=True)
    assert len({tuple(size) for size in done.metadata.verified["inputs"]}) == 3


def test_a_program_is_proven_at_free_sizes(tmp_path):
    done = write(tmp_path / "model.pt2", "seg", ONE_BLOCK, dynamic=True)
    assert done.metadata.verified["runtime"].startswith("torch")
    assert len({tuple(size) for size in done.metadata.verified["inputs"]}) == 3


def test_swin_is_proven_at_one_size(tmp_path):
    write(tmp_path / "model.onnx", "depth", SWIN)


def test_half_precision_is_proven_with_its_own_tolerance(tmp_path):
    done = write(tmp_path / "half.onnx", "seg", ONE_BLOCK, precision="fp16")
    write(tmp_path / "single.onnx", "seg", ONE_BLOCK)
    assert 1e-5 < done.metadata.verified["differences"]["logits"]["relative"] < 3e-2
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * (tmp_path / "single.onnx").stat().st_size


@pytest.mark.parametrize("cfg", ["det", "depth", "maskformer"])
def test_half_precision_is_proven_of_other_models(tmp_path, cfg):
    done = write(tmp_path / "half.onnx", cfg, ONE_BLOCK, precision="fp16")
    assert max(each["relative"] for each in done.metadata.verified["differences"].values()) > 1e-5


def test_the_command_writes_file_and_reference(here, tmp_path, monkeypatch, capsys):
    from tests.conftest import TINY  # a short run would take as long as the rest of the file

    experiment = load_experiment(ROOT / "configs/small/seg.yaml", [*TINY, "model.backbone.weights=null"])
    weights = experiment.build_model(pretrained=False).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    words = ["--cfg", "configs/small/seg.yaml", "--checkpoint", tmp_path / "weights.pt", "--out", tmp_path / "m.onnx"]
    words += ["--size", 64, 64, "--reference", tmp_path / "ref.npz"]
    here("tools.export_onnx", *words, *TINY)
    assert "verified with onnxruntime" in capsys.readouterr().out
    from tools.verify_export import __main__ as verify_export

    monkeypatch.setattr(sys, "argv", ["verify", str(tmp_path / "m.onnx"), "--reference", str(tmp_path / "ref.npz")])
    verify_export.main()
    assert "agrees with PyTorch" in capsys.readouterr().out
