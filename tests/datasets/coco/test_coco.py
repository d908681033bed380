import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import coco as pycoco
from pycocotools import mask as coco_mask

from config import dump, read_overrides, validate
from datasets.base import Objects
from datasets.coco.dataset import COCO, COCOConfig
from datasets.scenes.classes import CLASSES
from structures import Instances, Prediction, Target
from tests.datasets.coco.coco_layout import (
    SIZES,
    TRAIN,
    VAL,
    config,
    entry,
    plain,
    refused,
    store,
    stored,
    write_layout,
)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def objects_of(dataset: COCO, image_id: int) -> Objects:
    index = next(index for index in range(len(dataset)) if dataset.target(index).image_id == str(image_id))
    objects = dataset.load(index).objects
    assert objects is not None
    return objects


def image_ids(dataset: COCO) -> list[str]:
    return [dataset.target(index).image_id for index in range(len(dataset))]


# --- classes ---------------------------------------------------------------------------------------------------------


def test_official_classes_need_no_data() -> None:
    official = config("nowhere")
    info, ids = official.info, official.category_ids
    assert (info.task, info.name, info.num_classes, len(set(info.classes))) == ("detection", "coco", 80, 80)
    assert config("nowhere", masks=True).info.task == "instance"
    assert ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert [info.classes[ids.index(key)] for key in (1, 13, 44, 67, 90)] == [
        *("person", "stop sign", "bottle", "dining table", "toothbrush")
    ]


def test_labels_are_ranks_of_ids(layout: Path) -> None:
    assert objects_of(config(layout).build("train"), 9).labels.tolist() == [79, 0, 2]
    few = config(layout, classes={90: "toothbrush", 3: "car", 1: "person"})
    assert few.info.classes == ("person", "car", "toothbrush")
    assert objects_of(few.build("val"), 9).labels.tolist() == [2, 0, 1]


def test_results_carry_the_original_ids(layout: Path, tmp_path: Path) -> None:
    files = config("nowhere").prediction_files(tmp_path)
    instances = Instances(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([79]), scores=torch.ones(1))
    files.write(Prediction(instances=instances), Target("9", (40, 60)))
    files.finish()
    assert '"category_id": 90' in (tmp_path / "predictions.json").read_text()


def own(layout: Path, **options: Any) -> COCOConfig:
    content = stored(layout)
    content["categories"] = [{"id": 90, "name": "wall"}, {"id": 3, "name": "floor"}, {"id": 1, "name": "a: b"}]
    store(layout, content, "own.json")
    return config(layout, train_annotations="own.json", **options)


def test_classes_come_from_the_file_that_is_named(layout: Path) -> None:
    named = own(layout)
    assert named.info.classes == ("a: b", "floor", "wall")
    assert len(named.build("train")) == 4
    message = refused(lambda: named.build("val"))
    assert f"{layout / VAL}: category 90 is called toothbrush here but wall in data.classes (and 2 more" in message
    assert message.endswith("set data.classes=null 'data.classes={1: person, 3: car, 90: toothbrush}'")


def test_a_configuration_keeps_its_classes_without_the_file(layout: Path) -> None:
    named = own(layout)
    (layout / "own.json").unlink()
    for stored_form in (
        dump(named),
        json.loads(json.dumps(dump(named))),
        read_overrides({}, [f"x={json.dumps(dump(named))}"])["x"],
    ):
        assert validate(COCOConfig, stored_form, "data") == named
    assert "'1': 'a: b'" in yaml.safe_dump(dump(named))


def test_classes_are_set_on_the_command_line() -> None:
    base = {"data": dump(config("nowhere"))}
    first = read_overrides(base, ["data.classes={12: railing, 26: lamp}"])["data"]
    assert validate(COCOConfig, first, "data").category_ids == (12, 26)
    again = read_overrides({"data": dump(validate(COCOConfig, first, "data"))}, ["data.classes={12: fence}"])["data"]
    assert validate(COCOConfig, again, "data").info.classes == ("fence", "lamp")
    fresh = read_overrides({"data": again}, ["data.classes=null", "data.classes={7: door}"])["data"]
    assert validate(COCOConfig, fresh, "data").info.classes == ("door",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": {}}, "there are no classes"),
        ({"classes": ["a"]}, "is not a mapping of category ids to names"),
        ({"classes": {"a": "b"}}, "valid integer"),
        ({"classes": {-1: "b"}}, "greater than or equal to 0"),
        ({"classes": {1: "a", 2: "a"}}, "two classes are called a"),
        ({"classes": {1: ""}}, "at least 1 character"),
        ({"train_annotations": "own.json"}, "own.json: no such file; the classes would be read from it"),
        ({"train_annotations": ["a"]}, "train_annotations"),
        ({"on_error": "ignore"}, "'ignore' is not possible"),
        ({"mask": True}, "did you mean masks?"),
    ],
)
def test_impossible_configurations(options: dict[str, Any], message: str) -> None:
    assert message in refused(lambda: config(**{"root": "nowhere", **options}))


def test_embedded_scenes(scenes: Path) -> None:
    things = {item.category_id: item.name for item in CLASSES if item.is_thing}
    dataset = config(scenes / "coco", masks=True, classes=things, train_empty_images=True).build("train")
    assert len(dataset) == 10
    for index in range(10):
        objects = dataset.load(index).objects
        assert objects is not None
        assert objects.masks is not None
        assert_enclosing(objects.boxes, objects.masks)


def assert_enclosing(boxes: np.ndarray, masks: np.ndarray) -> None:
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()


# --- images ----------------------------------------------------------------------------------------------------------


def test_training_leaves_out_empty_and_small_images(layout: Path) -> None:
    assert image_ids(config(layout).build("train")) == ["5", "9", "12", "30"]
    assert image_ids(config(layout, min_side=1).build("train")) == ["5", "9", "12", "20", "30"]
    assert image_ids(config(layout, train_empty_images=True).build("train")) == ["5", "7", "9", "12", "30"]
    assert "lower data.min_side" in refused(lambda: config(layout, min_side=100).build("train"))


def test_evaluation_has_all_images_in_the_order_of_pycocotools(layout: Path) -> None:
    dataset = config(layout).build("val")
    assert image_ids(dataset) == [str(key) for key in sorted(SIZES)]
    assert [dataset.target(index).size for index in range(6)] == [SIZES[key] for key in sorted(SIZES)]
    assert dataset.groups is None


def test_scoring_opens_no_image(layout: Path) -> None:
    expected = [plain(config(layout, masks=True).build("val").load(index).target()) for index in range(6)]
    for folder in ("train2017", "val2017"):
        (layout / folder).rename(layout / f"{folder}-elsewhere")
    dataset = config(layout, masks=True).build("val", annotations_only=True)
    assert [plain(dataset.target(index)) for index in range(6)] == expected
    assert "no such folder" in refused(lambda: config(layout).build("val"))


def test_absolute_paths_and_subfolders(layout: Path) -> None:
    content = stored(layout)
    for image in content["images"]:
        image["file_name"] = f"train2017/./{image['file_name']}"
    store(layout, content, "own.json")
    options = {"train_annotations": str(layout / "own.json"), "train_images": str(layout)}
    assert len(config(layout / "annotations", **options).build("train")) == 4


def rewrite(root: Path, file: str, picture: Image.Image, **options: Any) -> Path:
    content = stored(root)
    entry(content, "images", 5)["file_name"] = file
    store(root, content)
    picture.save(root / "train2017" / file, **options)
    return root


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_kinds_of_jpegs(layout: Path, mode: str) -> None:
    image = config(rewrite(layout, "a.jpg", Image.new(mode, (40, 60)))).build("train").load(0).image
    assert (image.shape, image.dtype) == ((60, 40, 3), np.uint8)


def test_16_bit_images(layout: Path) -> None:
    cv2.imwrite(str(layout / "train2017/a.png"), np.full((60, 40), 0x1234, np.uint16))
    content = stored(layout)
    entry(content, "images", 5)["file_name"] = "a.png"
    store(layout, content)
    assert (config(layout).build("train").load(0).image == 0x12).all()


def test_the_json_describes_images_as_displayed(layout: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = config(rewrite(layout, "a.jpg", Image.new("RGB", (60, 40)), exif=exif)).build("train")
    assert rotated.load(0).image.shape == (60, 40, 3)
    upright = config(rewrite(layout, "b.jpg", Image.new("RGB", (60, 40)))).build("train")
    message = refused(lambda: upright.load(0))
    assert "b.jpg: is displayed at 60 x 40 (width x height) but image 5 of" in message
    assert f"{layout / TRAIN} is 40 x 60" in message


# --- objects ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_masks_are_those_of_pycocotools(layout: Path) -> None:
    reference = pycoco.COCO(str(layout / TRAIN))
    training, evaluation = (config(layout, masks=True).build(split) for split in ("train", "val"))
    for key in (5, 9, 12, 30):
        annotations = reference.loadAnns(reference.getAnnIds([key]))
        objects, exact = objects_of(training, key), objects_of(evaluation, key)
        assert objects.masks is not None
        assert objects.masks.dtype == bool
        assert np.array_equal(objects.masks, np.stack([reference.annToMask(item) for item in annotations]))
        assert exact.rles == [
            coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))["counts"] for mask in objects.masks
        ]
        assert objects.crowd.tolist() == exact.crowd.tolist() == [bool(item["iscrowd"]) for item in annotations]
        assert exact.xywh is not None
        assert exact.areas is not None
        assert exact.xywh.tolist() == [item["bbox"] for item in annotations]
        assert exact.areas.tolist() == [item["area"] for item in annotations]
        assert (exact.masks, objects.rles, objects.xywh, objects.areas) == (None,) * 4


def test_boxes_are_corners(layout: Path) -> None:
    for split in ("train", "val"):
        objects = objects_of(config(layout).build(split), 9)
        assert objects.boxes.dtype == np.float32
        assert objects.labels.dtype == np.int64
        assert objects.boxes.tolist() == [[5.5, 6.25, 35.5, 26.25], [0, 0, 12, 12], [30, 20, 40, 30]]
        assert (objects.masks, objects.rles) == (None, None)


BOXES = {  # in an image of 40 x 60 (width x height): the training box that is left
    (-5, -6, 20, 30): [0, 0, 15, 24],
    (30, 50, 30, 30): [30, 50, 40, 60],
    (40, 0, 5, 5): None,
    (-5, 0, 5, 5): None,
    (3, 3, 0, 9): None,
    (3, 3, 9, 0.5): None,
    (3, 3, 1, 1): [3, 3, 4, 4],
}


@pytest.mark.parametrize(("box", "left"), BOXES.items())
def test_what_teaches_nothing_is_dropped_from_training_alone(
    layout: Path, box: tuple[float, ...], left: list[float] | None
) -> None:
    for file in (TRAIN, VAL):
        content = stored(layout, file)
        entry(content, "annotations", 52).update(bbox=box, area=7)
        store(layout, content, file)
    boxes = objects_of(config(layout).build("train"), 5).boxes.tolist()
    assert boxes == [[0, 0, 40, 60], *([] if left is None else [left])]
    xywh = objects_of(config(layout).build("val"), 5).xywh
    assert xywh is not None
    assert xywh[1].tolist() == list(box)


@pytest.mark.parametrize("area", [0, -3])
def test_no_area_no_training(layout: Path, area: float) -> None:
    content = stored(layout)
    entry(content, "annotations", 52)["area"] = area
    store(layout, content)
    dataset = config(layout, masks=True).build("train")
    masks = objects_of(dataset, 5).masks
    assert masks is not None
    assert len(masks) == 1
    entry(content, "annotations", 50)["area"] = area
    store(layout, content)
    assert objects_of(config(layout).build("train"), 5).boxes.shape == (0, 4)


def test_a_missing_area_is_that_of_mask_or_box(layout: Path) -> None:
    content = stored(layout, VAL)
    del entry(content, "annotations", 50)["area"]
    store(layout, content, VAL)
    for masks, area in ((True, np.tri(60, 40).sum()), (False, 2400)):
        areas = objects_of(config(layout, masks=masks).build("val"), 5).areas
        assert areas is not None
        assert areas[0] == area


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_without_objects(layout: Path, split: Any) -> None:
    dataset = config(layout, masks=True, train_empty_images=True).build(split)
    objects = objects_of(dataset, 7)
    assert (objects.boxes.shape, objects.labels.shape, objects.crowd.shape) == ((0, 4), (0,), (0,))
    if split == "train":
        assert objects.masks is not None
        assert (objects.masks.shape, objects.masks.dtype) == ((0, 48, 48), bool)
    else:
        assert objects.rles == []
        assert objects.xywh is not None
        assert objects.xywh.shape == (0, 4)
    assert objects.instances().labels.dtype == torch.int64
