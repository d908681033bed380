"""Whole runs of MaskFormer, in the loop and with the data of SegFormer."""

import json

import pytest

from experiment import load_experiment
from tests.conftest import SHORT, check_two_processes, read

CFG, PANOPTIC = "configs/small/maskformer.yaml", "configs/maskformer_r50_panoptic.yaml"
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


@pytest.mark.slow
def test_two_processes_learn_like_one_and_score_the_same(tiny, tmp_path, here):
    check_two_processes(CFG, tiny, tmp_path, here)


def test_partitions_train_evaluate_predict_score(tiny, tmp_path, here):
    classes = load_experiment("configs/small/pan.yaml").data.classes
    words = [word for word in tiny if not word.startswith("data.")]
    words += ["model.backbone={name: mit_b0, weights: null, channels: [8, 16, 40, 64]}"]
    words += ["optimizer.rules=[]", "model.encoder_layers=1", "model.partition={min_score: 0, min_visible: 0}"]
    scenes = next(word for word in tiny if word.startswith("data.root")).removesuffix("/ADEChallengeData2016")
    words += [f"{scenes}/coco", f"data.classes={json.dumps({key: dict(item) for key, item in classes.items()})}"]
    words += ["data.train_transforms.1={sizes: [48], longest: 64}", "data.test_transforms.0={sizes: [48], longest: 64}"]
    here("train", "--cfg", PANOPTIC, *words)
    run = tmp_path / "maskformer_r50_panoptic"
    files = ["--predictions", tmp_path / "out", "--json"]
    here("eval", "--checkpoint", run, *files, tmp_path / "eval.json")
    result = read(tmp_path / "eval.json")
    assert result["metrics"] == read(run / "results.json")["metrics"]
    assert (result["task"], result["num_images"]) == ("panoptic", 5)
    here("tools.score", "--cfg", PANOPTIC, *words, *files, tmp_path / "score.json")
    assert read(tmp_path / "score.json")["metrics"] == result["metrics"]
