"""Whole runs of detectors and of Panoptic FPN.

Where one process does, it is this one: starting Python takes longer than training.
"""

import pytest

from errors import UserError
from tests.conftest import SHORT, check_two_processes

TINY = [
    "data.train_transforms.0={long: 64, short: 48}",
    "data.train_transforms.1.size=[48, 64]",
    "model.backbone.channels=[8, 16, 40, 64]",
    "model.backbone.depths=[1, 1, 1, 1]",
    "model.channels=16",
    "model.box_head.channels=32",
    "model.box_head.min_score=0.01",
    *SHORT,
]
DET, INST, PAN = (f"configs/small/{name}.yaml" for name in ("det", "inst", "pan"))


@pytest.fixture
def tiny(scenes, tmp_path) -> list[str]:
    """Overrides of the detectors' demos that make a run tiny; it goes to `tmp_path`."""
    return [*TINY, f"data.root={scenes}/coco", f"output_dir={tmp_path}"]


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [INST, PAN])
def test_two_processes_learn_like_one_and_score_the_same(tiny, tmp_path, here, cfg):
    # At equal scores rounding would choose the proposals; here all of them are taken.
    every = [f"model.{key}=9999" for key in ("rpn.before_nms_train", "rpn.proposals", "box_head.samples")]
    every.append("model.rpn.nms_iou=1")
    check_two_processes(cfg, [*tiny, *every], tmp_path, here)


def test_options_and_rounds_train(tiny, tmp_path, here):
    options = ["precision=fp16", "system.channels_last=true", "system.max_per_process=2", "gradient_clip=10"]
    here("train", "--cfg", DET, *tiny, *options, "model.upsampler_init=xavier", "model.neck=fpn_p6", "steps=3")
    assert (tmp_path / "det/results.json").exists()


def test_a_run_that_diverges_ends_in_one_line(tiny, here):
    # The steps before the losses are looked at have weights that are not numbers.
    late = ["logging.every=6", "evaluation.every=6", "logging.checkpoint_every=6"]
    with pytest.raises(UserError, match=r"step \d: the loss is not finite"):
        here("train", "--cfg", INST, *tiny, *late, "optimizer={name: sgd, lr: 1.0e+9}", "schedule={name: constant}")


def test_check_prints_the_plan_and_leaves_nothing(tiny, tmp_path, here, capsys):
    here("train", "--cfg", INST, "--check", *tiny)
    plan = capsys.readouterr().out
    for expected in ("task instance", "training and 5 validation images, 7 classes", "4 = 4 images", "loss_mask"):
        assert expected in plan
    assert not (tmp_path / "inst").exists()
