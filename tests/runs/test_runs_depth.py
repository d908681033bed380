"""Whole runs of DepthFormer.

Where one process does, it is this one: starting Python takes longer than training.
"""

import pytest

from tests.conftest import SHORT, check_two_processes, read

DEPTH = "configs/small/depth.yaml"
TINY = [
    "model.backbone.channels=[8, 16, 40, 64]",
    "model.stem_channels=8",
    "model.channels=16",
    "data.train_transforms.0.size=[32, 64]",
    *SHORT,
]


@pytest.fixture
def tiny(scenes, tmp_path) -> list[str]:
    """Overrides of the demo that make a run tiny; it goes to `tmp_path`."""
    return [*TINY, f"data.root={scenes}/nyu", f"output_dir={tmp_path}"]


@pytest.mark.slow
def test_two_processes_learn_like_one_and_score_the_same(tiny, tmp_path, here):
    check_two_processes(DEPTH, [*tiny, "sync_batch_norm=true"], tmp_path, here)


def test_options_and_rounds_train(tiny, tmp_path, here):
    options = ["precision=bf16", "system.channels_last=true", "system.max_per_process=2", "model.activation=sigmoid"]
    here("train", "--cfg", DEPTH, *tiny, *options, "model.upsampler=fade", "metrics.0.average=pixels", "steps=3")
    assert "pixels" in read(tmp_path / "depth/results.json")["protocol"]["depth_averaging"]


def test_check_prints_the_plan_and_leaves_nothing(tiny, tmp_path, here, capsys):
    here("train", "--cfg", DEPTH, "--check", *tiny)
    plan = capsys.readouterr().out
    for expected in ("task depth", "10 training and 5 validation images\n", "4 = 4 images", "loss_silog"):
        assert expected in plan
    assert not (tmp_path / "depth").exists()
