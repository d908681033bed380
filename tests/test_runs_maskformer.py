"""Whole runs of MaskFormer, in the loop and with the data of SegFormer."""

import pytest

from tests.conftest import SHORT, logged, read, run, train

CFG = "configs/demo/maskformer.yaml"
TINY = [
    "model.backbone.channels=[8, 16, 40, 64]",
    "model.channels=32",
    "model.queries=20",
    "model.layers=2",
    "model.hidden=32",
    "data.train_transforms.0.size=[32, 64]",
    "data.train_transforms.3.size=[32, 64]",
    *SHORT,
]


@pytest.fixture
def tiny(scenes, tmp_path) -> list[str]:
    """Overrides of the demo that make a run tiny; it goes to `tmp_path`."""
    return [*TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={tmp_path}"]


def test_train_evaluate_predict_score(tiny, tmp_path, here):
    here("train", "--cfg", CFG, *tiny)
    files = ["--predictions", tmp_path / "out", "--json"]
    here("eval", "--checkpoint", tmp_path / "maskformer", *files, tmp_path / "eval.json")
    result = read(tmp_path / "eval.json")
    assert result["metrics"] == read(tmp_path / "maskformer/results.json")["metrics"]
    assert (result["task"], result["num_images"]) == ("semantic", 5)
    here("tools.score", "--cfg", CFG, *tiny, *files, tmp_path / "score.json")
    assert read(tmp_path / "score.json")["metrics"] == result["metrics"]


def test_two_processes_learn_like_one_and_score_the_same(tiny, tmp_path, here):
    here("train", "--cfg", CFG, *tiny, "run_name=one")
    train(*tiny, "run_name=two", cfg=CFG, processes=2)
    one, two = (logged(tmp_path / name, "train") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-3)
    words = ["--checkpoint", tmp_path / "one", "--json"]
    here("eval", *words, tmp_path / "1.json")
    assert run("eval.py", *words, tmp_path / "2.json", processes=2).returncode == 0
    first, second = (read(tmp_path / f"{count}.json") for count in (1, 2))
    assert first["metrics"] == second["metrics"]
