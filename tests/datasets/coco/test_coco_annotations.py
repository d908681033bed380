import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.coco.dataset import COCO
from tests.datasets.coco.coco_layout import TRAIN, annotation, config, entry, refused, store, stored, write_layout

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def spoilt(root: Path, change: Callable[[Any], object]) -> bytes:
    """Change the training annotations; the bytes of the file."""
    content = stored(root)
    change(content)
    store(root, content)
    return (root / TRAIN).read_bytes()


def ids(dataset: COCO) -> set[int]:
    return set(dataset._annotations.ids.tolist())


def without(*keys: str) -> Change:
    return lambda record: [record.pop(key) for key in keys]


def to(**values: Any) -> Change:
    return lambda record: record.update(values)


POLYGONS = "polygon of its segmentation is not an even number (6 or more) of finite numbers"
RUNS = {"size": [40, 60], "counts": [2400]}
ANNOTATION = [
    (without("id"), "has no integer id"),
    (to(id="a17"), "has no integer id"),
    (to(id=17.5), "has no integer id"),
    (to(id=True), "has no integer id"),
    (to(id=100), "its id appears twice"),
    (without("image_id"), "image_id None is not one of the images"),
    (to(image_id=10), "image_id 10 is not one of the images"),
    (to(image_id="nine"), "image_id 'nine' is not one of the images"),
    (to(image_id=True), "image_id True is not one of the images"),
    (to(image_id=[9]), "image_id [9] is not one of the images"),
    (to(category_id=2), "category_id 2 is not one of the categories"),
    (to(category_id=1.5), "category_id 1.5 is not one of the categories"),
    (to(category_id=True), "category_id True is not one of the categories"),
    (without("bbox"), "bbox None is not [x, y, width, height]"),
    (to(bbox=[1, 2, 3]), "bbox [1, 2, 3] is not [x, y, width, height]"),
    (to(bbox=[1, 2, 3, math.nan]), "nan] is not [x, y, width, height] in finite numbers"),
    (to(bbox=[1, 2, 3, math.inf]), "inf] is not [x, y, width, height] in finite numbers"),
    (to(bbox=[1, 2, 3, 10**400]), "in finite numbers"),
    (to(bbox=[1, 2, 3, "4"]), "in finite numbers"),
    (to(bbox=[1, 2, -3, 4]), "is inverted"),
    (to(iscrowd=2), "iscrowd is 2, neither 0 nor 1"),
    (to(iscrowd="no"), "iscrowd is 'no'"),
    (to(area="7"), "area '7' is not a finite number"),
    (to(area=math.nan), "area nan is not a finite number"),
    (without("segmentation"), "has no segmentation"),
    (to(segmentation=[]), "has no segmentation"),
    (to(segmentation=[[1, 2, 3, 4]]), POLYGONS),
    (to(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), POLYGONS),
    (to(segmentation=[[1, 2, 3, 4, 5, math.nan]]), POLYGONS),
    (to(segmentation=[[1, 2, 3, 4, 5, math.inf, -math.inf, 8]]), POLYGONS),
    (to(segmentation=[[1, 2, 3, 4, 5, "6"]]), POLYGONS),
    (to(segmentation=[[1, 2, 3, 4, 5, [6]]]), POLYGONS),
    (to(segmentation=[1, 2, 3, 4, 5, 6]), POLYGONS),
    (to(segmentation=[[1, 2, 3, 4, 5, 1e9]]), "far outside an image of 60"),
    (to(segmentation=RUNS | {"size": [60, 40]}), "size [60, 40] but its image [40, 60] (height, width)"),
    (to(segmentation=RUNS | {"counts": [2399]}), "counts of its segmentation cover 2399 pixels, its image has 2400"),
    (to(segmentation=RUNS | {"counts": [-1, 2401]}), "neither text nor integers of at least 0"),
    (to(segmentation=RUNS | {"counts": []}), "counts of its segmentation cover 0 pixels"),
    (to(segmentation=RUNS | {"counts": None}), "neither text nor integers of at least 0"),
    (to(segmentation=RUNS | {"counts": "~~~"}), "not compressed run lengths"),
    (to(segmentation=RUNS | {"counts": "l"}), "not compressed run lengths"),
    (to(segmentation=RUNS | {"counts": ""}), "not compressed run lengths"),
    (to(segmentation=RUNS | {"counts": "1"}), "counts of its segmentation cover 1 pixels"),
    (to(segmentation={"counts": "1"}), "size None but its image [40, 60]"),
]


@pytest.mark.parametrize(("change", "message"), ANNOTATION)
def test_unusable_annotations(layout: Path, change: Change, message: str) -> None:
    before = spoilt(layout, lambda content: change(entry(content, "annotations", 17)))
    record = json.loads(before)["annotations"][1]
    name = f"annotation {record['id']}" if type(record.get("id")) is int else "annotations[1]"
    line = refused(lambda: config(layout, masks=True).build("train"))
    assert line.startswith(f"{layout / TRAIN}: {name}: ")
    assert message in line
    assert line.endswith("; correct the file, or leave out what is unusable with data.on_error=skip")

    dataset = config(layout, masks=True, on_error="skip").build("train")
    assert ids(dataset) == {16, 18, 50, 51, 52, 60, 100}
    assert list(dataset.skipped) == [line.partition("; correct the file")[0]]
    assert (layout / TRAIN).read_bytes() == before


IMAGE = [
    (without("id"), "has no integer id"),
    (to(id=True), "has no integer id"),
    (to(id=30), "its id appears twice"),
    (to(width=0), "width 0 and height 40 are not positive integers"),
    (to(height=-40), "height -40 are not positive integers"),
    (to(height="40"), "height '40' are not positive integers"),
    (to(width=60.5), "width 60.5 and"),
    (to(width="60"), "width '60' and"),
    (without("width"), "width None and"),
    (to(width=10**6, height=10**6), "are more than 178956970 pixels"),
    (without("file_name"), "file_name None is not a file name"),
    (to(file_name=""), "file_name '' is not a file name"),
    (to(file_name="a\0"), "is not a file name"),
    (to(file_name="\ud800.jpg"), "is not a file name"),
    (to(file_name="\udc80.jpg"), "is not a file name"),  # a byte of a name that is no UTF-8: it could not be printed
    (to(file_name="a" * 5000), "is not a file name"),
    (to(file_name="/etc/passwd"), "leads out of the images' folder"),
    (to(file_name="../val2017/000000000009.jpg"), "leads out of the images' folder"),
    (to(file_name="a/../../b.jpg"), "leads out of the images' folder"),
    (to(file_name="absent.jpg"), "there is no file absent.jpg in"),
    (to(file_name="absent/000000000009.jpg"), "there is no file absent/000000000009.jpg in"),
]


@pytest.mark.parametrize(("change", "message"), IMAGE)
def test_unusable_images(layout: Path, change: Change, message: str) -> None:
    # Listed last, the image is the second of two with one id, not the first.
    def last(content: dict[str, Any]) -> None:
        content["images"].append(content["images"].pop(0))
        change(content["images"][-1])
        if content["images"][-1].get("id") != 9:  # else they would be listed, too
            content["annotations"] = [item for item in content["annotations"] if item["image_id"] != 9]

    before = spoilt(layout, last)
    record = json.loads(before)["images"][-1]
    name = f"image {record['id']}" if type(record.get("id")) is int else "images[5]"
    line = refused(lambda: config(layout).build("train"))
    assert line.startswith(f"{layout / TRAIN}: {name}: ")
    assert message in line

    dataset = config(layout, on_error="skip", train_empty_images=True).build("train")
    assert [dataset.target(index).image_id for index in range(len(dataset))] == ["5", "7", "12", "30"]
    assert ids(dataset) == {50, 51, 52, 60, 100}
    assert list(dataset.skipped) == [line.partition("; correct the file")[0]]
    assert (layout / TRAIN).read_bytes() == before


def test_every_unusable_entry_is_listed(layout: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"].append(7)
        content["annotations"] += [
            None,
            annotation(101, 99, 1, [0, 0, 1, 1], []),
            {**annotation(102, 9, 1, [0, 0, 1, 1], []), "bbox": []},
        ]

    spoilt(layout, change)
    (layout / "train2017/000000000005.jpg").unlink()
    dataset = config(layout, on_error="skip").build("train")
    assert [line.removeprefix(f"{layout / TRAIN}: ").split(": ")[0] for line in dataset.skipped] == [
        *("image 5", "images[6]", "annotations[8]", "annotation 101", "annotation 102")
    ]


def test_without_masks_segmentations_do_not_matter(layout: Path) -> None:
    spoilt(layout, lambda content: [item.pop("segmentation") for item in content["annotations"]])
    assert ids(config(layout).build("train")) == {16, 17, 18, 50, 51, 52, 60, 100}


def test_a_missing_crowd_flag_is_none(layout: Path) -> None:
    spoilt(layout, lambda content: [item.pop("iscrowd") for item in content["annotations"]])
    assert not config(layout).build("train")._annotations.crowd.any()


# --- the file as a whole: errors whatever on_error says --------------------------------------------------------------


def instead(key: str, value: Any) -> Change:
    return lambda content: content.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("images"), "has no images"),
        (instead("images", {}), "images is not a list"),
        (instead("images", []), "lists no usable image"),
        (without("annotations"), "has no annotations"),
        (instead("annotations", None), "annotations is not a list"),
        (without("categories"), "has no categories"),
        (instead("categories", [{"id": 1}]), "categories[0]: lacks an integer id or a name"),
        (instead("categories", [3]), "categories[0]: lacks an integer id or a name"),
        (instead("categories", [{"id": 1, "name": "\ud800"}]), "categories[0]: lacks an integer id or a name"),
        (instead("categories", [{"id": 1, "name": "person"}] * 2), "category 1: appears twice"),
        (instead("categories", [{"id": 1, "name": "dog"}]), "category 1 is called dog here but person in data.classes"),
        (
            instead("categories", [{"id": 12, "name": "railing"}]),
            "is not in data.classes; name another file, or set data.classes=null 'data.classes={12: r",
        ),
        (
            instead("categories", [{"id": 100 + key, "name": f"class {key}"} for key in range(80)]),
            "(and 79 more differ); name another file, or set data.classes to the file's ids and names",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_unusable_files(layout: Path, change: Change, message: str, on_error: str) -> None:
    spoilt(layout, change)
    line = refused(lambda: config(layout, on_error=on_error).build("train"))
    assert line.startswith(f"{layout / TRAIN}: ")
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not valid JSON at character 0 of 0"),
        (b'{"images": [', "is not valid JSON at character 12 of 12"),
        (b"[]", "is not a JSON object"),
        (b"\xff\xff\xff\xff\xff", "is not valid JSON"),
        (b'{"a": ' + b"[" * 200_000, "is not valid JSON"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "is not valid JSON"),
    ],
)
def test_files_that_are_no_json(layout: Path, text: bytes, message: str) -> None:
    (layout / TRAIN).write_bytes(text)
    line = refused(lambda: config(layout, on_error="skip").build("train"))
    assert f"{layout / TRAIN}: {message}" in line


def test_missing_paths_name_their_key(layout: Path) -> None:
    assert f"tools.prepare_coco --root {layout}/coco" in refused(lambda: config(layout / "coco").build("val"))
    assert "data.val_annotations" in refused(lambda: config(layout, val_annotations="a.json").build("val"))
    assert "data.val_annotations" in refused(lambda: config(layout, val_annotations="a" * 5000).build("val"))
    assert "write the full path" in refused(lambda: config("~nobody-of-this-name/coco").build("val"))
    message = refused(lambda: config(layout, train_images="photos").build("train"))
    assert f"{layout / 'photos'}: no such folder" in message
    assert "data.train_images" in message
