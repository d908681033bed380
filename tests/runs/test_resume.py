"""What a resumed run may change: free, noted in the log, or refused with the reason."""

import shutil

import pytest
import torch

from tests import launch
from tests.conftest import SHORT, TINY, logged, read, train

CFG = ["--cfg", "configs/small/seg.yaml"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("finished")
    train(*TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={folder}")
    return folder / "seg"


@pytest.fixture
def again(finished, scenes, tmp_path):
    """Start a copy of the finished run again: `again(*overrides)`."""
    shutil.copytree(finished, tmp_path / "seg")
    words = [*CFG, *TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={tmp_path}"]
    return lambda *overrides, processes=1: launch.run("train", *words, *overrides, processes=processes)


def notes(folder):
    return [line["text"] for line in logged(folder, "note")]


def test_settings_that_change_nothing_are_free(again, tmp_path):
    free = ["evaluation.batch_size=1", "evaluation.every=2", "evaluation.pictures=0", "logging.every=2"]
    before = notes(tmp_path / "seg")
    done = again(*free, "logging.checkpoint_every=4", "system.channels_last=true", "system.workers=1")
    assert done.code == 0, done.err
    assert notes(tmp_path / "seg") == before


def test_a_finished_run_can_be_lengthened(again, tmp_path):
    done = again("steps=8")
    assert done.code == 0, done.err
    assert "changed: steps: 6 -> 8 (from here on the learning rate follows the schedule" in done.out
    assert "changed: steps: 6 -> 8" in notes(tmp_path / "seg")[-1]
    assert [line["step"] for line in logged(tmp_path / "seg", "train")] == list(range(1, 9))
    assert read(tmp_path / "seg/results_last.json")["step"] == 8


def test_a_run_that_has_done_more_steps_is_finished(again, tmp_path):
    before = (tmp_path / "seg/checkpoints/last.pt").read_bytes()
    done = again("steps=4")
    assert done.code == 0, done.err
    assert "at step 6 of 6" in done.out
    assert (tmp_path / "seg/checkpoints/last.pt").read_bytes() == before


def test_a_run_stops_early_and_stays_stopped_until_it_may_go_on(scenes, tmp_path):
    backbone = "{name: mit_b0, weights: null, channels: [8, 16, 40, 64], depths: [1, 1, 1, 1]}"
    model = f"model={{name: probe, backbone: {backbone}, upsampler: bilinear}}"  # without running statistics
    classes = [word for word in TINY if word.startswith("data.")]
    words = [model, *classes, *SHORT, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={tmp_path}"]
    words += ["optimizer={lr: 1.0e-12, rules: []}", "evaluation.every=1", "evaluation.pictures=0"]  # scores stay
    stopped = train(*words, "evaluation.patience=2")
    assert "stopped early: evaluation.patience is used up" in stopped
    assert read(tmp_path / "seg/results.json")["step"] == 1
    assert read(tmp_path / "seg/results_last.json")["step"] == 3
    before = (tmp_path / "seg/checkpoints/last.pt").read_bytes()
    assert "stopped early" in train(*words, "evaluation.patience=2")
    assert (tmp_path / "seg/checkpoints/last.pt").read_bytes() == before
    longer = train(*words, "evaluation.patience=4")
    assert "changed: evaluation.patience: 2 -> 4 (from here on the run ends after that many evaluations" in longer
    assert read(tmp_path / "seg/results_last.json")["step"] == 5


def test_moved_files_are_noted(again, scenes, tmp_path):
    data = shutil.copytree(scenes / "ADEChallengeData2016", tmp_path / "data")
    (data / "annotations").rename(data / "labels")
    moved = ["data.train_annotations=labels/training", "data.val_annotations=labels/validation"]
    done = again(f"data.root={data}", *moved, "steps=7")
    assert done.code == 0, done.err
    assert sum("the files there must be the same" in note for note in notes(tmp_path / "seg")) == 3


@pytest.mark.parametrize("split", ["training", "validation"])
def test_other_images_are_refused(again, scenes, tmp_path, split):
    data = shutil.copytree(scenes / "ADEChallengeData2016", tmp_path / "data")
    for folder in ("images", "annotations"):
        next(iter(sorted((data / folder / split).iterdir()))).unlink()
    done = again(f"data.root={data}", "steps=7")
    assert done.code == 2
    assert "the run was started with data 10 images" in done.err


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("batch_size=2", "it would learn something else"),
        ("seed=1", "it would learn something else"),
        ("model.upsampler=carafe", "it would learn something else"),
        ("schedule.power=2", "it would learn something else"),
        ("data.test_transforms=[{name: resize_fit, long: 64, short: 32}, normalize]", "its scores would not compare"),
        ("frozen=[head.norm]", "it would learn something else"),
        ("data.repeat_threshold=0.5", "it would learn something else"),
        ("evaluation.best=mAcc", "its scores would not compare"),
        ("system.max_per_process=2", "with accumulation rounds 1, and now it has 2"),
    ],
)
def test_what_changes_the_run_is_refused_with_the_reason(again, override, reason):
    done = again(override, "steps=7")
    assert done.code == 2
    assert reason in done.err


def test_as_many_rounds_on_more_processes_continue(scenes, tmp_path):
    words = [*CFG, *TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={tmp_path}"]
    train(*words[2:], "system.max_per_process=2", "steps=2")
    done = launch.run("train", *words, "system.max_per_process=1", "steps=3", processes=2)
    assert done.codes == [0, 0], done.err
    assert "changed: system.max_per_process: 2 -> 1" in done.out


def test_a_resumed_run_needs_no_pretrained_file(finished, scenes, tmp_path):
    weights = tmp_path / "weights.pt"
    model = torch.load(finished / "checkpoints/best.pt", weights_only=True)["model"]
    torch.save({"format": "denseup-weights", "model": model}, weights)
    words = [*TINY, f"data.root={scenes}/ADEChallengeData2016", f"output_dir={tmp_path}"]
    assert str(weights) in train(*words, f"model.weights={weights}", "steps=2")
    weights.unlink()
    printed = train(*words, f"model.weights={weights}", "steps=3")
    assert "resuming" in printed
    moved = train(*words, "model.weights=null", "steps=4")
    assert "without effect, since the run goes on from its checkpoint" in moved


def test_the_best_and_the_last_evaluation_are_kept_and_named(finished):
    best, last = (read(finished / name) for name in ("results.json", "results_last.json"))
    assert (best["selected"], last["selected"], last["step"]) == ("best", "last", 6)
    values = {line["step"]: line["mIoU"] for line in logged(finished, "val")}
    assert best["metrics"]["mIoU"] == max(values.values())
    assert last["metrics"]["mIoU"] == values[6]


@pytest.mark.parametrize("which", ["best", "last"])
def test_eval_of_a_run_folder_is_told_which(finished, tmp_path, which):
    words = ["--checkpoint", finished, "--which", which, "--json", tmp_path / "eval.json"]
    done = launch.run("eval", *words)
    assert done.code == 0, done.err
    result = read(tmp_path / "eval.json")
    expected = read(finished / {"best": "results.json", "last": "results_last.json"}[which])
    assert [result[key] for key in ("checkpoint", "step", "selected", "metrics")] == [
        str(finished / f"checkpoints/{which}.pt"),
        *(expected[key] for key in ("step", "selected", "metrics")),
    ]
    assert f", the {which} one of the run, step {result['step']}" in done.out
