"""The whole model and whole runs on CUDA; run by `make gpu`."""

import json

import pytest
import torch

from experiment import load_experiment
from models.layers.pixel_losses import pixel_cross_entropy
from structures import IGNORE, Batch, Target
from tests.conftest import ROOT, assert_same, run, train, weights
from upsamplers import NAMES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def batch(size: int = 128) -> Batch:
    torch.manual_seed(0)
    labels = torch.randint(-1, 150, (2, size, size)).to(torch.int16)
    targets = [Target(str(index), (size - 7, size + 9), semantic=label) for index, label in enumerate(labels)]
    return Batch(torch.randn(2, 3, size, size), [(size, size - 3)] * 2, targets)


@pytest.mark.parametrize("upsampler", ["bilinear", "carafe", "dysample", "dysample-s+"])
def test_cuda_gives_the_loss_gradient_and_prediction_of_the_cpu(upsampler):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    options = [f"model.upsampler={upsampler}", "model.dropout=0", "model.backbone={name: mit_b0, drop_path: 0}"]
    found = {}
    for device in ("cpu", "cuda"):
        model = load_experiment(ROOT / "configs/seg_dysample.yaml", options).build_model().to(device).train()
        loss = model(batch().to(device))["loss_ce"]
        loss.backward()
        gradient = model.backbone.stages[0].patch.weight.grad
        logits = model.eval().outputs(batch().images.to(device))["logits"]
        found[device] = [loss.detach().cpu(), gradient.cpu(), logits.detach().cpu()]
        assert [item.semantic.shape for item in model.predict(batch().to(device))] == [(121, 137)] * 2
    for ours, reference in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)


def test_loss_does_not_depend_on_the_size_of_its_chunks():
    torch.manual_seed(0)
    logits = torch.randn(2, 150, 64, 64, device="cuda", requires_grad=True)
    labels = torch.randint(IGNORE, 150, (2, 256, 256), device="cuda").to(torch.int16)
    loss = pixel_cross_entropy(logits, labels, [tuple(each.shape) for each in labels])
    loss.backward()
    reference = logits.detach().cpu().requires_grad_()
    pixel_cross_entropy(reference, labels.cpu(), [tuple(each.shape) for each in labels]).backward()
    torch.testing.assert_close(logits.grad.cpu(), reference.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_run_trains_and_scores(tiny, tmp_path, precision):
    options = [*tiny, "system.device=cuda", f"precision={precision}", "system.channels_last=true", "system.workers=2"]
    done = run("train.py", "--cfg", "configs/small/seg.yaml", *options)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "eval.json"
    assert run("eval.py", "--checkpoint", tmp_path / "seg", "--json", path).returncode == 0
    trained = json.loads((tmp_path / "seg/results.json").read_text())
    assert json.loads(path.read_text())["metrics"] == pytest.approx(trained["metrics"])


@pytest.mark.parametrize("upsampler", [name for name in NAMES if name != "a2u"])
def test_deterministic_runs_are_bit_equal(tiny, tmp_path, upsampler):
    options = [*tiny, "system.device=cuda", "system.deterministic=true", f"model.upsampler={upsampler}"]
    for name in ("one", "two"):
        train(*options, f"run_name={name}")
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"))
