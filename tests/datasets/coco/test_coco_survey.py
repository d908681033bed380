"""What a split holds: counted before the start, by class and by reason for leaving something out."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.base import Survey
from tests.datasets.coco.coco_layout import TRAIN, VAL, config, entry, refused, store, stored, write_layout

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def change_all(root: Path, change: Change) -> Path:
    """Change every annotation of both splits; returns `root`."""
    for file in (TRAIN, VAL):
        content = stored(root, file)
        for annotation in content["annotations"]:
            change(annotation)
        store(root, content, file)
    return root


def survey(root: Path, split: Any, **options: Any) -> Survey:
    return config(root, classes={1: "person", 3: "car", 90: "toothbrush"}, **options).build(split).survey()


# --- counts ----------------------------------------------------------------------------------------------------------


def test_objects_are_counted_by_class(layout: Path) -> None:
    assert survey(layout, "train").counts == {"person": 3, "car": 1, "toothbrush": 1}
    assert survey(layout, "val").counts == {"person": 4, "car": 1, "toothbrush": 1}


def test_what_training_leaves_out_is_counted_by_reason(layout: Path) -> None:
    content = stored(layout)
    entry(content, "annotations", 17)["area"] = 0
    entry(content, "annotations", 16)["bbox"] = [-9, 0, 5, 5]
    entry(content, "annotations", 52)["bbox"] = [3, 3, 9, 0.5]
    store(layout, content)
    left_out = {reason: count for reason, count in survey(layout, "train").left_out.items() if count}
    assert left_out == {
        "image(s) with a side below 32 pixels": 1,
        "image(s) without an annotation": 1,
        "crowds (iscrowd 1)": 2,
        "with area 0 or less": 1,
        "with a box narrower or lower than a pixel": 1,
        "with a box outside the image": 1,
    }


def test_evaluation_leaves_out_crowds_alone(layout: Path) -> None:
    assert survey(layout, "val").left_out == {"crowds (iscrowd 1)": 2, "with area below 0": 0}


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_counted_is_what_is_loaded(layout: Path, masks: bool) -> None:
    content = stored(layout)
    boxes = [[-5, -6, 20, 30], [39.5, 0, 9, 9], [40, 0, 5, 5], [3, 3, 0, 9], [3, 3, 1, 1], [0, 59.99999999, 5, 5]]
    for number, box in enumerate(boxes):
        content["annotations"].append({**entry(content, "annotations", 52), "id": 200 + number, "bbox": box})
    store(layout, content)
    given = config(layout, classes={1: "person", 3: "car", 90: "toothbrush"}, masks=masks)
    dataset, loaded = given.build("train"), Counter[str]()
    for index in range(len(dataset)):
        objects = dataset.load(index).objects
        assert objects is not None
        loaded.update(given.info.classes[label] for label in objects.labels[~objects.crowd])
    assert dataset.survey().counts == loaded


# --- nothing is left -------------------------------------------------------------------------------------------------


def to(**values: Any) -> Change:
    return lambda record: record.update(values)


def normalise(record: dict[str, Any]) -> None:
    record["bbox"] = [value / 100 for value in record["bbox"]]
    del record["area"]


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (to(iscrowd=1), "all 7 annotations are crowds (iscrowd 1), nothing to learn; set data.crowds=objects"),
        (
            to(iscrowd=0, area=0),
            "all 7 annotations have area 0 or less, nothing to learn; correct `area`, or take it out",
        ),
        (to(iscrowd=0, bbox=[0, 0, 0, 0]), "all 7 annotations have a box narrower or lower than a pixel"),
        (to(iscrowd=0, bbox=[-9, -9, 5, 5]), "all 7 annotations have a box outside the image, nothing to learn"),
        (
            to(area=0),
            "none of 7 annotations can be learnt from: 2 crowds (iscrowd 1), 5 with area 0 or less; correct `area`",
        ),
        (normalise, "all 7 boxes lie within 0..1, as if relative to the image size where the format has pixels"),
    ],
)
def test_nothing_left_to_learn_says_why(layout: Path, change: Change, message: str, empty: bool) -> None:
    change_all(layout, change)
    line = refused(lambda: survey(layout, "train", train_empty_images=empty))
    assert line.startswith(f"{layout / TRAIN}: {message}")


def test_nothing_left_to_score_says_why(layout: Path) -> None:
    change_all(layout, to(iscrowd=1))
    line = refused(lambda: survey(layout, "val"))
    assert line.startswith(f"{layout / VAL}: all 8 annotations are crowds (iscrowd 1), nothing to score; set data.crow")


def test_objects_that_no_range_of_areas_holds_are_not_scored(layout: Path) -> None:
    change_all(layout, to(area=-1))
    line = refused(lambda: survey(layout, "val"))
    assert "none of 8 annotations can be scored: 2 crowds (iscrowd 1), 6 with area below 0; correct `ar" in line


def test_no_annotation_at_all(layout: Path) -> None:
    for file in (TRAIN, VAL):
        store(layout, {**stored(layout, file), "annotations": []}, file)
    line = f"{layout / VAL}: none of its 6 images has an annotation; name other annotations"
    assert refused(lambda: survey(layout, "val")) == line
    for empty in (False, True):
        message = refused(lambda: survey(layout, "train", train_empty_images=empty))  # noqa: B023
        assert message == line.replace(VAL, TRAIN)


def test_images_that_are_too_small_are_the_reason_and_the_advice_helps(layout: Path) -> None:
    line = refused(lambda: survey(layout, "train", min_side=100))
    assert line == (
        f"{layout / TRAIN}: all 5 images with an annotation have a side below 100 pixels; "
        "lower data.min_side, for example data.min_side=40"
    )
    assert survey(layout, "train", min_side=40).counts["car"] == 1
    line = refused(lambda: survey(layout, "train", min_side=100, train_empty_images=True))
    assert "all 6 images have a side below 100 pixels; lower data.min_side, for example data.min_side=48" in line


def test_unusable_entries_are_the_reason(layout: Path) -> None:
    change_all(layout, to(bbox="x"))
    line = refused(lambda: survey(layout, "train", on_error="skip"))
    assert "none of its 6 images has an annotation, but 8 entries are unusable (the first: annotation 100: bbox" in line
    content = stored(layout)
    for image in content["images"]:
        image["width"] = "60"
    store(layout, content)
    line = refused(lambda: survey(layout, "train", on_error="skip"))
    assert "lists no usable image (of 6 entries, the first: image 9: width '60' and height 40 are not positive" in line


# --- crowds that are objects -----------------------------------------------------------------------------------------


def test_crowds_may_be_objects(layout: Path) -> None:
    change_all(layout, to(iscrowd=1))
    for split in ("train", "val"):
        dataset = config(layout, masks=True, crowds="objects").build(split)
        target = dataset.target(0).instances
        assert target is not None
        assert len(target.labels) == 2
        assert target.crowd is None
        assert sum(dataset.survey().counts.values()) == {"train": 7, "val": 8}[split]
    assert dataset.protocol == {"crowds": "taken as objects"}
    assert config(layout).build("val").protocol == {}


# --- warnings --------------------------------------------------------------------------------------------------------


def warnings(root: Path, split: str = "train", **options: Any) -> str:
    return "\n".join(survey(root, split, **options).warnings)


def test_sound_data_give_no_warning(layout: Path) -> None:
    assert warnings(layout, "train", masks=True) == warnings(layout, "val") == ""


def test_classes_without_an_example_are_listed_once(layout: Path) -> None:
    found = config(layout).build("val").survey().warnings
    assert found == ["no object of 77 of 80 classes: bicycle, motorcycle, airplane and 74 more"]


def test_a_class_whose_objects_are_all_left_out_has_no_example(layout: Path) -> None:
    content = stored(layout)
    entry(content, "annotations", 17)["area"] = 0
    store(layout, content)
    assert warnings(layout) == "no object of 1 of 3 classes: toothbrush"


def corners(record: dict[str, Any]) -> None:
    x, y, width, height = record["bbox"]
    record["bbox"] = [x, y, x + width, y + height]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("masks", "what"), [(False, "contradict their areas"), (True, "contradict their masks")])
def test_corners_in_place_of_width_and_height(layout: Path, split: str, masks: bool, what: str) -> None:
    def move(record: dict[str, Any]) -> None:
        record.update(bbox=[8, 8, 12, 12], area=144, segmentation=[[8, 8, 20, 8, 20, 20, 8, 20]], iscrowd=0)
        corners(record)

    change_all(layout, move)
    count = 7 if split == "train" else 8
    line = f"{count} of {count} boxes {what}, as if they were corners x1 y1 x2 y2 where the format is x y width height"
    assert warnings(layout, split, masks=masks) == line


def test_corners_without_areas_end_beyond_their_image(layout: Path) -> None:
    def move(record: dict[str, Any]) -> None:
        record.update(bbox=[19, 8, 10, 12], iscrowd=0)
        corners(record)
        del record["area"]

    change_all(layout, move)
    assert "boxes end beyond their image, as if they were corners x1 y1 x2 y2" in warnings(layout)


def test_boxes_for_larger_images(layout: Path) -> None:
    change_all(layout, to(bbox=[90, 60, 50, 30], iscrowd=0))
    entries = stored(layout)
    entry(entries, "annotations", 17)["bbox"] = [1, 1, 9, 9]
    store(layout, entries)
    assert "6 of 7 boxes end beyond their image, as if they were made for images of another size" in warnings(layout)


def test_boxes_from_the_centre_do_not_enclose_their_masks(layout: Path) -> None:
    outline = [[10, 10, 20, 10, 20, 20, 10, 20]]
    change_all(layout, to(bbox=[15, 15, 10, 10], segmentation=outline, iscrowd=0, area=100))
    expected = "7 of 7 boxes do not enclose their masks; correct bbox: it is [x, y, width, height] in pixels"
    assert warnings(layout, masks=True) == expected


def test_relative_boxes_are_only_a_warning_where_something_is_left_to_score(layout: Path) -> None:
    change_all(layout, normalise)
    assert "all 8 boxes lie within 0..1, as if relative" in warnings(layout, "val")
