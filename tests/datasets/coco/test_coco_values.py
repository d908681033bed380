"""Values as other programs write them: whole floats, ids as texts, null, paths of Windows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.coco.predictions import CocoFiles
from datasets.coco.values import id_number, whole_number
from structures import Target
from tests.datasets.coco.coco_layout import SIZES, TRAIN, config, entry, plain, refused, store, stored, write_layout
from tests.datasets.panoptic import panoptic_layout


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((7, 7), (7.0, 7), ("7", 7), ("007", 7), (0, 0), (0.0, 0), (-0.0, 0), (2**63 - 1, 2**63 - 1)),
        *((True, None), (False, None), (1.5, None), (-1, None), (-1.0, None), (2**63, None), (1e300, None)),
        *((float("nan"), None), (float("inf"), None), (None, None), ("", None), ("1.0", None), ("-1", None)),
        *((" 1", None), ("1e3", None), ("²", None), ("٣", None), ("9" * 30, None), ([1], None), ({}, None)),
    ],
)
def test_ids(value: Any, expected: int | None) -> None:
    assert id_number(value) == expected
    assert type(id_number(value)) is type(expected)


def test_floats_that_may_stand_for_another_integer_are_none() -> None:
    assert whole_number(float(2**53 - 1)) == 2**53 - 1
    assert whole_number(float(2**53)) is None


def floats(value: Any) -> Any:
    """The same with a float in place of every integer."""
    if isinstance(value, dict):
        return {key: floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return float(value) if type(value) is int else value


def texts(value: Any) -> Any:
    """The same with a text in place of every id."""
    if isinstance(value, dict):
        ids = ("id", "image_id", "category_id")
        return {key: str(item) if key in ids else texts(item) for key, item in value.items()}
    return [texts(item) for item in value] if isinstance(value, list) else value


def targets(dataset: Any) -> list[Any]:
    return [plain(dataset.target(index)) for index in range(len(dataset))]


@pytest.mark.parametrize("change", [floats, texts])
@pytest.mark.parametrize("masks", [False, True])
def test_files_with_whole_floats_or_texts_as_ids(tmp_path: Path, change: Callable[[Any], Any], masks: bool) -> None:
    root = write_layout(tmp_path)
    expected = targets(config(root, masks=masks).build("train"))
    store(root, change(stored(root)))
    assert targets(config(root, masks=masks).build("train")) == expected
    store(root, change(stored(root)), "own.json")
    assert config(root, train_annotations="own.json").category_ids == (1, 3, 90)


@pytest.mark.parametrize("change", [floats, texts])
def test_panoptic_files_with_whole_floats_or_texts_as_ids(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    root = panoptic_layout.write_layout(tmp_path)
    panoptic_layout.store(root, change(panoptic_layout.stored(root)))
    dataset = panoptic_layout.config(root).build("train")
    assert panoptic_layout.image_ids(dataset) == [5, 9, 12]
    objects = dataset.load(1).objects
    assert objects is not None
    assert objects.boxes.tolist() == [[5, 12, 25, 20], [30, 12, 36, 32], [40, 12, 55, 18]]


@pytest.mark.parametrize("change", [floats, texts])
def test_results_with_whole_floats_or_texts_as_ids(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    records = [{"image_id": 7, "category_id": 44, "bbox": [1, 0, 2, 3], "score": 1}]
    (tmp_path / "a.json").write_text(json.dumps(change(records)))
    files = CocoFiles(tmp_path / "a.json", (2, 44), masks=False)
    found = files.read(Target("7", (4, 6))).instances
    assert found is not None
    assert torch.equal(found.labels, torch.tensor([1]))
    assert files.unread() == []


@pytest.mark.parametrize("change", [floats, texts])
def test_panoptic_results_with_whole_floats_or_texts_as_ids(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    given = panoptic_layout.config(panoptic_layout.write_layout(tmp_path))
    panoptic_layout.store(tmp_path, change(panoptic_layout.stored(tmp_path)), "annotations/panoptic_train2017.json")
    dataset, files = given.build("val"), given.prediction_files(tmp_path / panoptic_layout.TRAIN)
    for index in range(len(dataset)):
        target = dataset.target(index)
        panoptic_layout.assert_same(files.read(target), target.panoptic)
    assert files.unread() == []


def test_an_id_in_two_spellings_is_refused_with_its_entry(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    content = stored(root)
    content["images"].append({**entry(content, "images", 9), "id": "09"})
    store(root, content)
    line = refused(lambda: config(root).build("train"))
    assert f"{TRAIN}: image 9: its id appears twice ('09' is that number)" in line


def test_results_with_an_image_id_in_two_spellings_are_refused(tmp_path: Path) -> None:
    record = {"image_id": "12", "category_id": 44, "bbox": [1, 0, 2, 3], "score": 1}
    files = CocoFiles(tmp_path / "a.json", (44,), masks=False)
    (tmp_path / "a.json").write_text(json.dumps([record, {**record, "image_id": 12}]))
    files.read(Target("12", (4, 6)))
    (tmp_path / "a.json").write_text(json.dumps([record, {**record, "image_id": "012"}]))
    files = CocoFiles(tmp_path / "a.json", (44,), masks=False)
    line = refused(lambda: files.read(Target("12", (4, 6))))
    assert "a.json: record 2: image_id '012' is the number of '12' in record 1; give every image one id" in line


def test_run_lengths_may_be_whole_floats(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    content = stored(root)
    entry(content, "annotations", 18)["segmentation"] = {"size": [40.0, 60.0], "counts": [1220.0, 10.0, 1170.0]}
    store(root, content)
    objects = config(root, masks=True).build("train").load(1).objects
    assert objects is not None
    assert objects.masks is not None
    assert objects.masks[2].sum() == 10


def test_null_stands_for_a_missing_value(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    content = stored(root)
    for annotation in content["annotations"]:
        annotation.update(iscrowd=None, area=None)
    store(root, content)
    annotations = config(root).build("train")._annotations
    assert not annotations.crowd.any()
    assert np.array_equal(annotations.areas, annotations.boxes[:, 2:].prod(axis=1))


@pytest.mark.parametrize("name", ["sub\\{}", "sub/{}", "./sub/{}", ".\\sub\\{}", "sub//{}"])
def test_names_of_other_systems(tmp_path: Path, name: str) -> None:
    root = write_layout(tmp_path)
    content = stored(root)
    (root / "train2017").rename(root / "sub")
    (root / "train2017").mkdir()
    (root / "sub").rename(root / "train2017/sub")
    for image in content["images"]:
        image["file_name"] = name.format(image["file_name"])
    store(root, content)
    assert config(root).build("train").load(0).size == SIZES[5]


def test_a_file_with_a_backslash_in_its_name_is_that_file(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    content = stored(root)
    entry(content, "images", 5)["file_name"] = "a\\b.jpg"
    (root / "train2017/000000000005.jpg").rename(root / "train2017/a\\b.jpg")
    store(root, content)
    assert config(root).build("train").load(0).size == SIZES[5]


@pytest.mark.parametrize("name", ["..\\000000000009.jpg", "sub\\..\\..\\a.jpg", "\\etc\\passwd"])
def test_backslashes_lead_no_further_out_than_slashes(tmp_path: Path, name: str) -> None:
    root = write_layout(tmp_path)
    content = stored(root)
    entry(content, "images", 5)["file_name"] = name
    store(root, content)
    assert "leads out of the images' folder" in refused(lambda: config(root).build("train"))


def test_boxes_need_no_segmentation_and_categories_may_have_more_keys(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    content = stored(root)
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    for category in content["categories"]:
        category.update(supercategory=None, keypoints=[], color="#fff")
    store(root, content)
    assert len(config(root).build("train")) == 4
