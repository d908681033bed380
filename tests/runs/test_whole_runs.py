"""One whole run of every demo: trained, evaluated, predicted, scored; its losses are those recorded in tests/golden.

How exactly they must agree is known from other processors, whose kernels round differently: the tolerances below are at
least three times the differences between kernels for SSE, AVX2 and AVX-512 (of PyTorch, oneDNN and MKL). A detector
takes its proposals by rank, so a rounding error can change which regions the next step learns from.
"""

import json

import pytest

from tests import launch
from tests.conftest import read
from tests.golden.record import DATA, LOSSES, arguments, losses_of, write_golden_scenes
from upsamplers import NAMES

TASKS = {
    "seg": "semantic",
    "maskformer": "semantic",
    "det": "detection",
    "inst": "instance",
    "pan": "panoptic",
    "depth": "depth",
}
# Relative errors: of the first loss, those of steps 2 to 5, and all later ones.
FIRST = 1e-5
EARLY, LATER = {"seg": 1e-4, "maskformer": 1e-4, "depth": 1e-3}, {"seg": 1e-4, "maskformer": 1e-3, "depth": 1e-3}
DETECTOR_EARLY, DETECTOR_LATER = 1e-2, 0.15
FIELDS = {"task", "config", "checkpoint", "step", "dataset", "split", "num_images", "skipped", "protocol", "metrics"}
FIELDS |= {"per_class", "environment", "seconds", "selected"}


@pytest.fixture(scope="session")
def golden_scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("golden") / "scenes"
    write_golden_scenes(root)
    return root


@pytest.mark.parametrize("demo", DATA)
def test_a_demo_learns_as_recorded_and_is_scored_alike_everywhere(demo, golden_scenes, tmp_path):
    def run(module: str, *words: object) -> None:
        done = launch.run(module, *words, seconds=300)
        assert done.codes == [0], done.err

    words = arguments(demo, golden_scenes, tmp_path)
    run("train", *words)
    folder, recorded = tmp_path / demo, json.loads(LOSSES.read_text())[demo]
    losses = losses_of(folder)
    assert losses[0] == pytest.approx(recorded[0], rel=FIRST)
    assert losses[:5] == pytest.approx(recorded[:5], rel=EARLY.get(demo, DETECTOR_EARLY))
    assert losses == pytest.approx(recorded, rel=LATER.get(demo, DETECTOR_LATER))
    assert sum(losses[-5:]) < sum(losses[:5])
    for name in ("config.yaml", "checkpoints/last.pt", "checkpoints/best.pt", "results.json"):
        assert (folder / name).exists(), name
    assert len(list((folder / "pictures").rglob("*.png"))) == 1
    assert list(folder.glob("events.out.tfevents.*"))

    trained = read(folder / "results.json")
    run("eval", "--checkpoint", folder, "--json", tmp_path / "eval.json", "--predictions", tmp_path / "files")
    result = read(tmp_path / "eval.json")
    assert result.keys() == trained.keys() == FIELDS
    assert result["metrics"] == trained["metrics"]
    assert result["per_class"] == trained["per_class"]
    assert (result["task"], result["num_images"], result["step"]) == (TASKS[demo], 2, 10)
    if demo == "depth":
        assert result["protocol"]["val_data"].startswith("own list nyu_test.txt, 2 pairs, sha256 ")

    run("tools.score", *words, "--predictions", tmp_path / "files", "--json", tmp_path / "score.json")
    scores = read(tmp_path / "score.json")["metrics"]
    if demo == "depth":  # files hold whole millimetres
        assert scores == pytest.approx(result["metrics"], rel=1e-3, abs=1e-3)
    else:
        assert scores == result["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_upsampler_learns_the_demo_in_60_steps(name, golden_scenes, tmp_path):
    words = [*arguments("seg", golden_scenes, tmp_path), f"model.upsampler={name}", "steps=60", "batch_size=4"]
    done = launch.run("train", *words, seconds=600)
    assert done.codes == [0], done.err
    losses = losses_of(tmp_path / "seg")
    assert len(losses) == 60
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    print(f"{name}: mean loss {first:.3f} in the first ten steps, {last:.3f} in the last ten")
    assert last < 0.9 * first
