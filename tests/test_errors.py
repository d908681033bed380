"""Wrong input ends in one line on stderr that says where, what and what to do, with exit code 2."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import eval as evaluation
import train as training
from errors import UserError, read_early, run_command
from experiment import load_experiment
from tests.conftest import ROOT, train
from tools import complexity, make_scenes, predict, score
from tools.convert_weights import __main__ as convert_weights

CFG = ["--cfg", str(ROOT / "configs/small/seg.yaml")]


@pytest.fixture
def fails(monkeypatch, capsys):
    """Run a command in this process; the one line that it prints on stderr."""

    def run(main, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        lines = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2, lines
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, lines
        assert not any("Traceback" in line for line in lines)
        assert errors[0].count(": ") >= 2
        assert "; " in errors[0]
        return errors[0]

    return run


@pytest.fixture
def data(scenes, tmp_path) -> Path:
    """A copy of the scenes that a test may break."""
    return Path(shutil.copytree(scenes / "ADEChallengeData2016", tmp_path / "data"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.upsampler.gruops=4", ": model.upsampler.gruops: unknown key; did you mean groups?"),
        ("model.upsampler=dysampel", "did you mean 'dysample'?"),
        ("model.upsampler={name: carafe, kernel: 4}", "kernel"),
        ("model.upsampler.groups=true", "groups"),
        ("model.upsampler.groups=3", "3"),
        ("stpes=1", "stpes: unknown key; did you mean steps?"),
        ("upsampler=carafe", "upsampler: unknown key; did you mean model.upsampler?"),
        ("lr=0.1", "lr: unknown key; did you mean optimizer.lr?"),
        ("data.batch_size=4", "data.batch_size: unknown key; did you mean batch_size?"),
        ("model.mask_channels=8", "model.mask_channels: unknown key; did you mean channels?"),  # of another model
        ("steps=-1", "steps: -1 is not possible"),
        ("steps=many", "steps: 'many' is not possible"),
        ("batch_size=0", "batch_size: 0 is not possible"),
        ("model.backbone=mit_b7", "mit_b7"),
        ("optimizer=adma", "did you mean adamw?"),
        ("metrics=[]", "metrics"),
        ("evaluation.best=mIuO", "did you mean mIoU?"),
        ("run_name=a/b", "run_name"),
        ("run_name=..", "run_name"),
        ("seed=99999999999999999999999", "seed"),
        ("optimizer.lr=inf", "optimizer.lr"),
        ("optimizer.betas=[2, 3]", "optimizer.betas.0"),
        ("data.root=/proc/nowhere", "/proc/nowhere: no such folder"),
        ("data.train_transforms=[]", "normalize"),
        ("model.weights=/proc/nowhere.pt", "model.weights /proc/nowhere.pt: no such file"),
        ("model.backbone.weights=/proc/nowhere.pt", "model.backbone.weights /proc/nowhere.pt: no such file"),
        ("system.device=cuda", "CUDA"),
        ("model.weights=", "has no value; write null for none"),
        ("steps=3 # three", "what follows # would be a comment"),
        ("run_name=a b", "'a b' cannot name a run; use letters"),
        ("data.root=/proc/nowhere #2", "/proc/nowhere #2: no such folder"),
        ("nonsense", "is not KEY=VALUE"),
    ],
)
def test_wrong_setting_stops_before_the_first_step(fails, tiny, tmp_path, override, expected):
    if override == "system.device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert expected in fails(training.main, *CFG, *tiny, override)
    assert not (tmp_path / "seg").exists()


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("modle.upsampler=carafe", "argument modle.upsampler=carafe: modle"),
        ("model.upsampler=dysampel", "argument model.upsampler=dysampel: model.upsampler"),
        ("evaluation.best=PQ", "argument evaluation.best=PQ: evaluation.best"),
        ("metrics=[mean_iou, mean_iou]", "argument metrics=[mean_iou, mean_iou]: metrics"),
        (
            "model.upsampler.groups=3",
            f"{CFG[1]} with argument model.channels=16, argument model.upsampler.groups=3: model",
        ),
    ],
)
def test_error_of_an_argument_names_the_argument(fails, tiny, override, where):
    tiny = [word for word in tiny if not word.startswith("model.") or word == "model.channels=16"]
    assert fails(training.main, *CFG, *tiny, override).startswith(f"error: {where}: ")


def test_misspelt_argument_of_a_checkpoint_is_named(fails, tiny, tmp_path):
    train(*tiny, "steps=2")
    line = fails(evaluation.main, "--checkpoint", tmp_path / "seg", "evaluation.bset=mIoU")
    assert line.startswith("error: argument evaluation.bset=mIoU: evaluation.bset: unknown key")


def test_configuration_in_place_of_a_checkpoint(fails):
    assert "is a configuration, not a checkpoint" in fails(evaluation.main, "--checkpoint", CFG[1])


@pytest.mark.parametrize("name", ["2024-11-23", "2024_11_23", "001", "no"])
def test_a_run_may_be_named_by_a_date_or_a_number(tiny, name):
    experiment = load_experiment(CFG[1], [*tiny, f"run_name={name}"])
    assert experiment.run_folder.name == name


def test_a_home_folder_is_expanded_in_output_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_experiment(CFG[1], ["output_dir=~/runs"]).run_folder == tmp_path / "runs/seg"
    assert load_experiment(CFG[1], ["output_dir=~no_such_user/runs"]).run_folder == Path("~no_such_user/runs/seg")


@pytest.mark.parametrize("arguments", [[], ["--cfg"], ["--cfg", "no.yaml"], ["--confg", "a.yaml"]])
def test_wrong_command_line(fails, arguments):
    fails(training.main, *arguments)


def break_image(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def write_labels(path: Path, labels: np.ndarray) -> None:
    cv2.imwrite(str(path), labels)


IMAGE = "images/training/ADE_train_00000003.jpg"
LABELS = "annotations/training/ADE_train_00000003.png"


def write_values(value: int, *size: int) -> Callable[[Path], None]:
    return lambda path: write_labels(path, np.full(size, value, np.uint8))


@pytest.mark.parametrize(
    ("relative", "damage", "expected"),
    [
        (IMAGE, break_image, "truncated"),
        (IMAGE, lambda path: path.write_bytes(b""), "empty"),
        (LABELS, break_image, "damaged or truncated"),
        (LABELS, write_values(99, 48, 64), "value 99"),
        (LABELS, write_values(1, 48, 60), "60 x 48 pixels"),
        (LABELS, write_values(1, 48, 64, 3), "RGB"),
    ],
)
def test_bad_file_in_the_middle_of_a_run_loses_nothing(
    fails, tiny, tmp_path, data, monkeypatch, relative, damage, expected
):
    for name in ("SURVEYED_MAPS", "SURVEYED_IMAGES"):  # else most are found before the start
        monkeypatch.setattr(f"datasets.semantic.ade20k.{name}", 1)
    damage(data / relative)
    line = fails(training.main, *CFG, *tiny, f"data.root={data}", "batch_size=2")
    assert str(data / relative) in line
    assert expected in line
    saved = torch.load(tmp_path / "seg/checkpoints/last.pt", weights_only=True)
    assert saved["step"] < 6


@pytest.mark.parametrize("damage", [break_image, write_values(99, 48, 64), write_values(0, 48, 64, 3)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_label_map_of_the_survey_stops_before_the_first_step(fails, tiny, tmp_path, data, damage, split):
    folder = {"train": "training", "val": "validation"}[split]
    path = data / f"annotations/{folder}/ADE_{split}_00000003.png"
    damage(path)
    assert str(path) in fails(training.main, *CFG, *tiny, f"data.root={data}")
    assert not (tmp_path / "seg").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_are_all_ignored_stop_before_the_first_step(fails, tiny, tmp_path, data, split):
    folder = data / "annotations" / {"train": "training", "val": "validation"}[split]
    for path in folder.iterdir():
        write_labels(path, np.zeros((48, 64), np.uint8))
    assert "not one pixel of" in fails(training.main, *CFG, *tiny, f"data.root={data}")
    assert not (tmp_path / "seg").exists()


def test_label_beyond_the_class_list(fails, tiny):
    assert "is not a class (classes: 1 to 2" in fails(training.main, *CFG, *tiny, "data.classes=[a, b]")


def test_image_without_annotation_is_found_at_the_start(fails, tiny, tmp_path, data):
    (data / "annotations/validation/ADE_val_00000002.png").unlink()
    line = fails(training.main, *CFG, *tiny, f"data.root={data}")
    assert "ADE_val_00000002.jpg: no annotation" in line
    assert not (tmp_path / "seg").exists()


def test_run_folder_of_another_configuration(fails, tiny):
    train(*tiny, "steps=2")
    assert "was started with" in fails(training.main, *CFG, *tiny, "steps=2", "model.upsampler=carafe")
    assert "optimizer.lr" in fails(training.main, *CFG, *tiny, "steps=2", "optimizer.lr=1")


def test_run_folder_that_cannot_be_made(fails, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(training.main, *CFG, *tiny, f"output_dir={tmp_path}/file")


def test_checkpoints_that_do_not_fit(fails, tiny, tmp_path):
    train(*tiny, "steps=2")
    last = tmp_path / "seg/checkpoints/last.pt"
    assert "does not fit" in fails(evaluation.main, "--checkpoint", last, *CFG, *tiny, "model.upsampler=carafe")
    assert "no such checkpoint" in fails(evaluation.main, "--checkpoint", tmp_path / "none.pt")
    assert "holds no checkpoint" in fails(evaluation.main, "--checkpoint", tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    assert "is neither converted weights nor a checkpoint" in fails(
        evaluation.main, "--checkpoint", tmp_path / "other.pt"
    )
    assert "cannot be written" in fails(evaluation.main, "--checkpoint", last, "--json", tmp_path)
    image = tmp_path / "image.png"
    shutil.copy(ROOT / "docs/images/demo.jpg", image)
    before = image.read_bytes()
    assert "would overwrite" in fails(predict.main, "--checkpoint", last, tmp_path, "--out", tmp_path)
    assert image.read_bytes() == before
    root = next(option for option in tiny if option.startswith("data.root="))[len("data.root=") :]
    assert "lies in data.root" in fails(evaluation.main, "--checkpoint", last, "--predictions", f"{root}/annotations")
    assert "no such image" in fails(predict.main, "--checkpoint", last, "none.jpg", "--out", tmp_path / "out")


def test_images_that_cannot_be_read_are_left_out_and_named(fails, tiny, tmp_path, monkeypatch):
    experiment = load_experiment(CFG[1], tiny)
    monkeypatch.setattr(predict, "load_predicting", lambda *_: (experiment, experiment.build_model(), 0))
    photos = tmp_path / "photos"
    (photos / "folder.jpg").mkdir(parents=True)
    shutil.copy(ROOT / "docs/images/demo.jpg", photos / "good.jpg")
    for name in ("bad.jpg", "worse.png", ".hidden.jpg", "note.txt"):
        (photos / name).write_text("no picture")
    line = fails(predict.main, "--checkpoint", "any.pt", photos, "--out", tmp_path / "out")
    assert f"{photos / 'bad.jpg'}: is not a readable image" in line
    assert sorted(path.name for path in tmp_path.glob("out/**/*.png")) == ["good.png", "good.png"]
    labels = experiment.data.root / "annotations"
    assert "lies in data.root" in fails(predict.main, "--checkpoint", "any.pt", photos, "--out", labels)


def test_tools_refuse_what_is_not_there(fails, tiny, tmp_path):
    assert "no such file or folder" in fails(score.main, *CFG, *tiny, "--predictions", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "ADE_val_00000001.png" in fails(score.main, *CFG, *tiny, "--predictions", tmp_path / "empty")
    assert "no such file" in fails(complexity.main, "--cfg", tmp_path / "none.yaml")
    assert "not positive" in fails(complexity.main, *CFG, "--size", 0, 10)
    assert "no such file" in fails(convert_weights.main, "--from", "segformer", tmp_path / "a.pth", tmp_path / "b.pt")
    fails(make_scenes.main, "--train", "-1")


def test_loss_that_is_not_finite_stops_the_run(fails, tiny, tmp_path):
    line = fails(
        training.main, *CFG, *tiny, "optimizer.lr=1e18", "schedule.warmup_steps=0", "logging.checkpoint_every=1"
    )
    assert "the loss is not finite (loss_ce " in line
    assert "ADE_train_" in line
    saved = torch.load(tmp_path / "seg/checkpoints/last.pt", weights_only=True)
    assert f"step {saved['step'] + 1}:" in line


def test_a_wrong_command_line_ends_a_single_process_early(capsys):
    def read(name: str) -> None:
        raise UserError(name, "is wrong", "correct it")

    with pytest.raises(SystemExit) as stop:
        read_early(read, "--name")
    assert (stop.value.code, capsys.readouterr().err) == (2, "error: --name: is wrong; correct it\n")


def test_several_processes_leave_the_command_line_to_main_where_one_of_them_reports(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    read_early(lambda: pytest.fail("has read it"))
