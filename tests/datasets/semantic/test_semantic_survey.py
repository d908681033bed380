"""What is counted before the start, and what the messages about it advise."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from config import validate
from datasets.base import Survey
from datasets.semantic.ade20k import ADE20KConfig
from errors import UserError

OWN = {"classes": ["road", "car"], "first_label": 0, "ignore_labels": [255]}
TWO = {"classes": ["road", "car"]}  # first_label 1, 0 ignored
MakeConfig = Callable[..., ADE20KConfig]


def write(root: Path, *rows: list[int], split: str = "training") -> None:
    """Each row is a label map, with a black image."""
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        labels = np.array([row], np.uint16 if max(row) > 255 else np.uint8)
        cv2.imwrite(str(root / f"annotations/{split}/{number:03}.png"), labels)
        cv2.imwrite(str(root / f"images/{split}/{number:03}.png"), np.zeros((*labels.shape, 3), np.uint8))


def survey(config: ADE20KConfig) -> Survey:
    return config.build("train").survey()


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def followed(message: str) -> dict[str, Any]:
    """The settings that a message advises, read as a shell and YAML read them."""
    words = shlex.split(re.search(r"set ('?data\.[^(]*)", message)[1])  # type: ignore[index]
    pairs = [word.removeprefix("data.").partition("=") for word in words]
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def test_pixels_are_counted_by_class_and_ignored_ones_are_left_out(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, [0, 0, 1], [255, 1, 1])
    found = survey(make_config(**OWN))
    assert found.counts == {"road": 2, "car": 3}
    assert found.left_out == {"ignored": 1}
    assert found.warnings == []
    assert found.summary() == "5 pixels of 2 of 2 classes; left out: 1 ignored"


def test_large_sets_are_sampled_evenly(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.semantic.ade20k.SURVEYED_MAPS", 3)
    write(tmp_path, *[[0, 1] if number % 3 == 0 else [1, 1] for number in range(9)])
    found = survey(make_config(**OWN))
    assert found.counts == {"road": 3, "car": 3}
    assert found.read == "3 of 9 label maps"


def test_rare_classes_of_a_sample_are_no_warning(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.semantic.ade20k.SURVEYED_MAPS", 2)
    write(tmp_path, [0, 1], [150, 3], [7, 8])
    assert survey(make_config()).warnings == []


def test_all_maps_are_read_before_none_is_left(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.semantic.ade20k.SURVEYED_MAPS", 2)
    write(tmp_path, [255], [255], [255], [1], [255])
    found = survey(make_config(**OWN))
    assert found.counts == {"road": 0, "car": 1}
    assert found.read == ""


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_that_are_all_ignored_are_an_error(tmp_path: Path, make_config: MakeConfig, split: Any) -> None:
    write(tmp_path, [255], [255], split="training" if split == "train" else "validation")
    message = refused(lambda: make_config(**OWN).build(split).survey())
    assert "not one pixel of 2 label maps has a class: they hold only 255, which is ignored" in message


def test_a_value_that_is_no_class_is_an_error_before_the_start(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, [0, 1], [0, 3])
    message = refused(lambda: survey(make_config(**OWN)))
    assert "annotations/training/001.png: value 3 at row 0, column 1 is not a class (classes: 0 to 1" in message
    assert "data.label_values (here are 0, 3)" in message


def test_a_class_without_a_pixel_is_named(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, [0, 2])
    (warning,) = survey(make_config(**{**OWN, "classes": ["road", "car", "sky", "tree"]})).warnings
    assert warning == "no pixel is car, tree; the values are 0, 2 (ignored: 255)"


def test_a_single_class_with_pixels_is_named(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, [0, 255])
    (warning,) = survey(make_config(**{**OWN, "classes": ["road", "car", "sky"]})).warnings
    assert "no pixel is car, sky, so there is nothing to tell apart" in warning


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([[0, 1]], TWO, {"first_label": 0, "ignore_labels": [255]}),  # a warning
        ([[0, 1, 255]], {**TWO, "ignore_labels": [0, 255]}, {"first_label": 0, "ignore_labels": [255]}),
        ([[0, 0]], TWO, {"first_label": 0, "ignore_labels": [255]}),  # nothing left
        ([[0, 255]], OWN, {"label_values": {0: "road", 255: "car"}, "ignore_labels": []}),  # a warning
        ([[0, 255]], TWO, {"label_values": {0: "road", 255: "car"}, "ignore_labels": []}),  # 255 is no class
        (
            [[0, 255]],
            {**TWO, "ignore_labels": [0, 255]},
            {"label_values": {0: "road", 255: "car"}, "ignore_labels": []},
        ),
    ],
)
def test_the_likely_cause_is_named_with_settings_that_work(
    tmp_path: Path, make_config: MakeConfig, rows: list[list[int]], options: dict[str, Any], expected: dict[str, Any]
) -> None:
    write(tmp_path, *rows)
    try:
        (message,) = survey(make_config(**options)).warnings
    except UserError as error:
        message = str(error)
    assert followed(message) == expected
    assert any(survey(make_config(**{**options, **expected})).counts.values())


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [[0, 1]]),
        ({"first_label": 0, "ignore_labels": [255]}, [[0, 255]]),
        ({"first_label": 5, "ignore_labels": [3, 4]}, [[3, 4, 5]]),
        ({"label_values": {255: "car"}}, [[0, 255]]),
    ],
)
def test_a_single_class_is_refused_with_settings_that_work(
    tmp_path: Path, make_config: MakeConfig, options: dict[str, Any], rows: list[list[int]]
) -> None:
    write(tmp_path, *rows)
    message = refused(lambda: make_config(classes=["car"], **options))
    assert "car is the only class" in message
    found = survey(make_config(**{**options, **followed(message)}))
    assert set(found.counts) == {"background", "car"}
    assert all(found.counts.values())


def test_advice_is_quoted_for_the_shell(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, [0, 255])
    classes = ["the rest: all", "bird's nest"]
    (message,) = survey(make_config(classes=classes, ignore_labels=[255], first_label=0)).warnings
    assert followed(message)["label_values"] == {0: classes[0], 255: classes[1]}


def test_images_of_few_grey_levels_stop_before_the_start(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, *[[0, 1] * 800] * 3)
    image = np.linspace(7200, 8700, 1600).astype(np.uint16)[None]
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"images/training/{number:03}.png"), image)
    message = refused(lambda: survey(make_config(**OWN)))
    assert "000.png: and 1 more of 3 images have 16 bits per channel" in message
    dataset = make_config(**OWN, **followed(message)).build("train")
    dataset.survey()
    assert len(np.unique(dataset.load(0).image)) > 200


def test_a_dark_frame_among_others_is_taken(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, *[[0, 1] * 800] * 3)
    for number, high in enumerate((65535, 4000, 60000)):
        image = np.linspace(0, high, 1600).astype(np.uint16)[None]
        cv2.imwrite(str(tmp_path / f"images/training/{number:03}.png"), image)
    dataset = make_config(**OWN).build("train")
    dataset.survey()
    assert np.array_equal(dataset.load(1).image[..., 0], np.linspace(0, 4000, 1600).astype(np.uint16)[None] >> 8)


def test_scoring_without_images_surveys_labels_alone(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, [0, 1])
    for path in (tmp_path / "images/training").iterdir():
        path.unlink()
    assert make_config(**OWN).build("train", annotations_only=True).survey().counts == {"road": 1, "car": 1}


def test_config_survives_a_dump(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(classes=["road", "car"], label_values={7: "road", 26: "car"}, image_range=[0, 4095])
    assert validate(ADE20KConfig, yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "data") == config
