"""Detectors on CUDA against the CPU, and whole runs there; run by `make gpu`."""

import json

import pytest
import torch

from tests.conftest import run
from tests.models.rcnn.examples import batch, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
BOXES = [[[10.0, 12, 60, 70], [80, 20, 150, 110], [5, 5, 20, 20]], [[30.0, 30, 90, 90]]]
# Devices draw different random numbers: let nothing be drawn.
ALL = {
    "rpn": {
        "nms_iou": 1.0,
        "proposals": 100_000,
        "before_nms_train": 100_000,
        "samples": 100_000,
        "positive_share": 1.0,
    },
    "box_head": {"channels": 32, "samples": 100_000, "positive_share": 1.0, "min_score": 0.0, "detections": 20},
}


@pytest.mark.parametrize("upsampler", ["nearest", "carafe", "dysample+", "dysample-s+"])
def test_cuda_gives_the_losses_and_gradients_of_the_cpu(upsampler, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    found = {}
    for device in ("cpu", "cuda"):
        model = build(upsampler=upsampler, mask_upsampler=upsampler, **ALL).to(device).train()
        losses = model(batch(BOXES).to(device))
        torch.stack(list(losses.values())).sum().backward()
        gradient = torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])
        found[device] = {name: loss.item() for name, loss in losses.items()}, gradient
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-3)
    assert (found["cuda"][1] - found["cpu"][1]).norm() <= 1e-2 * found["cpu"][1].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_trains_and_predicts(dtype):
    model, data = build(upsampler="dysample+", **ALL).cuda(), batch(BOXES).to("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        losses = model.train()(data)
        found = model.eval().predict(data)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert [len(prediction.instances.rles) for prediction in found] == [20, 20]


def test_run_trains_and_scores(scenes, tmp_path):
    options = [f"data.root={scenes}/coco", f"output_dir={tmp_path}", "run_name=inst", "system.device=cuda"]
    options += ["steps=4", "evaluation.every=4", "logging.every=1"]
    options += ["system.workers=2", "precision=bf16"]
    done = run("train.py", "--cfg", "configs/small/inst.yaml", *options)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "eval.json"
    assert run("eval.py", "--checkpoint", tmp_path / "inst", "--json", path).returncode == 0
    trained = json.loads((tmp_path / "inst/results.json").read_text())["metrics"]
    assert json.loads(path.read_text())["metrics"] == pytest.approx(trained, nan_ok=True)
