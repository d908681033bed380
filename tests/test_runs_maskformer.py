"""Whole runs of MaskFormer, in the loop and with the data of SegFormer."""

import pytest

from tests.conftest import SHORT, check_two_processes, read

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
    check_two_processes(CFG, tiny, tmp_path, here)
