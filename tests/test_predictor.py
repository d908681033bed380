"""Prediction from Python: every task, every kind of picture, and the program in docs/python.md."""

import re
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from errors import UserError
from predictor import Predictor
from tests import launch
from tests.conftest import ROOT, SHORT, TINY, read

NARROW = ["model.backbone.channels=[8, 16, 40, 64]", "model.channels=16", *SHORT, "steps=1", "evaluation.pictures=0"]
TASKS = {
    "seg": [*TINY, "steps=1"],
    "inst": [*SHORT, "steps=1"],
    "pan": [*SHORT, "steps=1"],
    "depth": [*NARROW, "model.stem_channels=8", "data.train_transforms.0.size=[32, 64]"],
}
ROOTS = {"seg": "ADEChallengeData2016", "inst": "coco", "pan": "coco", "depth": "nyu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, scenes):
    """One trained step of each task: run folders, by task."""
    folder = tmp_path_factory.mktemp("runs")
    for task, options in TASKS.items():
        words = ["--cfg", f"configs/small/{task}.yaml", *options, f"data.root={scenes / ROOTS[task]}"]
        done = launch.run("train", *words, f"output_dir={folder}", f"run_name=demo_{task}")
        assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def image(scenes):
    return min((scenes / "ADEChallengeData2016/images/validation").iterdir())


@pytest.fixture(scope="module")
def predictor(runs):
    return Predictor(runs / "demo_seg", device="cpu")


def test_a_path_an_array_and_an_image_are_one_picture(predictor, image):
    array = cv2.imread(str(image))[..., ::-1]
    expected = predictor(str(image)).semantic
    assert expected.shape == array.shape[:2]
    assert expected.dtype == np.int16
    for picture in (image, array, Image.fromarray(array)):
        assert np.array_equal(predictor(picture).semantic, expected)


def test_it_predicts_what_the_command_writes(runs, predictor, image, tmp_path):
    assert launch.run("tools.predict", "--checkpoint", runs / "demo_seg", image, "--out", tmp_path).code == 0
    written = np.asarray(Image.open(tmp_path / f"{image.stem}.png"))
    assert np.array_equal(predictor(image).semantic, written)


def test_a_list_keeps_its_order_and_sizes(runs, image):
    array = cv2.imread(str(image))[..., ::-1]
    pictures = [array, array[:40], array[:, ::-1], array[:40, :50]]
    alone = Predictor(runs / "demo_seg", device="cpu")
    together = Predictor(runs / "demo_seg", device="cpu", batch_size=4)
    for picture, one, many in zip(pictures, alone(pictures), together(pictures), strict=True):
        assert one.image.shape == picture.shape
        assert one.semantic.shape == many.semantic.shape == picture.shape[:2]
        assert (one.semantic == many.semantic).mean() > 0.99  # another batch rounds differently
    assert together([]) == []


def test_a_rotated_photo_is_taken_as_displayed(predictor, image, tmp_path):
    picture = Image.open(image)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    width, height = picture.size
    assert predictor(tmp_path / "turned.jpg").semantic.shape == (width, height)
    assert predictor(Image.open(tmp_path / "turned.jpg")).semantic.shape == (width, height)


def test_the_range_of_16_bit_pictures_comes_from_the_settings(runs, predictor, image, tmp_path):
    array = cv2.imread(str(image), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "deep.png"), 7200 + array.astype(np.uint16))
    with pytest.raises(UserError, match=r"less than 32 grey levels; set 'data\.image_range="):
        predictor(tmp_path / "deep.png")
    ranged = Predictor(runs / "demo_seg", device="cpu", overrides=["data.image_range=[7200, 7455]"])
    assert np.array_equal(ranged(tmp_path / "deep.png").image[..., 0], array)
    with pytest.raises(UserError, match="has mode I;16, more than 8 bits; give its path"):
        predictor(Image.open(tmp_path / "deep.png"))


def test_objects_have_names_scores_boxes_and_masks(runs, image):
    found = Predictor(runs / "demo_inst", device="cpu", overrides=["model.box_head.min_score=0"])(image)
    size = found.image.shape[:2]
    assert found.objects
    scores = [each.score for each in found.objects]
    assert scores == sorted(scores, reverse=True)
    for each in found.objects:
        assert each.name in found.classes
        assert each.mask.shape == size
        assert 0 <= each.box[0] <= each.box[2] <= size[1]
    assert found.semantic is found.depth is found.segments is None


def test_segments_do_not_overlap(runs, image):
    found = Predictor(runs / "demo_pan", device="cpu")(image)
    assert found.task == "panoptic"
    masks = np.stack([segment.mask for segment in found.segments])
    assert masks.sum(axis=0).max() <= 1
    assert np.array_equal(masks.any(axis=0), found.raw.panoptic.ids.numpy() > 0)


def test_depth_is_in_metres_at_the_pictures_size(runs, image):
    found = Predictor(runs / "demo_depth", device="cpu")(image)
    assert found.depth.shape == found.image.shape[:2]
    assert found.depth.dtype == np.float32
    assert found.classes == ()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_draws_a_picture(runs, image, task):
    picture = Predictor(runs / f"demo_{task}", device="cpu")(image).picture()
    assert picture.mode == "RGB"
    assert picture.height >= 48


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        torch.zeros(3, 8, 8),
        None,
    ],
)
def test_what_is_no_picture_is_refused(predictor, picture):
    with pytest.raises(UserError, match=r"give a path, a PIL image, or an array \[H, W, 3\] uint8 in RGB order"):
        predictor([picture])


def test_a_missing_file_or_model_is_named(predictor, tmp_path):
    with pytest.raises(UserError, match=r"none\.jpg: no such file"):
        predictor(tmp_path / "none.jpg")
    with pytest.raises(UserError, match="no such checkpoint"):
        Predictor(tmp_path / "none")


def test_the_program_of_the_documentation_runs(runs, image, tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", str(image)])
    exec(compile(program, "docs/python.md", "exec"), {})
    assert (tmp_path / "prediction.png").is_file()


WINDOWS = ["evaluation.inference.windows.size=[32, 32]", "evaluation.inference.flip=true"]


@pytest.mark.parametrize("task", ["seg", "inst", "depth"])
def test_windows_and_views_are_settings_of_any_model(task, runs, image):
    found = Predictor(runs / f"demo_{task}", device="cpu", overrides=WINDOWS)(image)
    size = found.image.shape[:2]
    if task == "inst":
        assert all(each.mask.shape == size for each in found.objects)
    else:
        assert (found.semantic if task == "seg" else found.depth).shape == size


def test_windows_and_views_stand_in_the_result(runs, tmp_path):
    done = launch.run("eval", "--checkpoint", runs / "demo_seg", "--json", tmp_path / "a.json", *WINDOWS)
    assert done.code == 0, done.err
    inference = read(tmp_path / "a.json")["protocol"]["inference"]
    assert inference["windows"] == {"size": [32, 32], "overlap": 0.25, "blend": "linear"}
    assert inference["flip"] is True


def test_panoptic_predictions_of_several_views_are_refused(runs):
    with pytest.raises(UserError, match=r"panoptic predictions cannot be put together.*set evaluation.inference=null"):
        Predictor(runs / "demo_pan", device="cpu", overrides=WINDOWS)
