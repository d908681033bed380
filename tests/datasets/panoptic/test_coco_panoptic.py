import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from config import dump, validate
from datasets.base import Objects, Sample
from datasets.coco import dataset as coco
from datasets.files.folders import Names
from datasets.geometry import crop, flip, pad, resize
from datasets.loading import BatchLayout, evaluation_loader, training_loader
from datasets.panoptic.dataset import COCOPanoptic, COCOPanopticConfig
from structures import IGNORE
from tests.datasets.coco.coco_layout import refused
from tests.datasets.panoptic.panoptic_layout import (
    CAR,
    CLASSES,
    GRASS,
    INSTANCES,
    PERSON,
    SEGMENTS,
    SIZES,
    SKY,
    TRAIN,
    VAL,
    annotation,
    config,
    content,
    ids_of,
    image_ids,
    place,
    scene_config,
    segment,
    spoil,
    store,
    store_png,
    write_layout,
)

LABELS = {1: PERSON, 2: GRASS, 3: CAR, 90: SKY}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def sample_of(dataset: COCOPanoptic, image: int) -> Sample:
    return dataset.load(place(dataset, image))


def objects_of(sample: Sample) -> tuple[Objects, np.ndarray]:
    assert sample.objects is not None
    assert sample.objects.masks is not None
    return sample.objects, sample.objects.masks


# --- classes ---------------------------------------------------------------------------------------------------------


def test_official_classes_need_no_data() -> None:
    official = config("nowhere", classes=None)
    info, ids = official.info, official.category_ids
    assert (info.task, info.name, info.num_classes, len(set(info.classes))) == ("panoptic", "coco_panoptic", 133, 133)
    assert info.things == (True,) * 80 + (False,) * 53
    assert info.classes[:80] == tuple(coco.CLASSES.values())
    assert list(ids) == sorted(ids)
    assert [info.classes[ids.index(key)] for key in (1, 90, 92, 138, 180, 187, 193, 200)] == [
        *("person", "toothbrush", "banner", "net", "window-blind", "sky-other-merged", "grass-merged", "rug-merged")
    ]


def test_things_need_not_come_first() -> None:
    info = config("nowhere", classes=dict(reversed(CLASSES.items()))).info
    assert info.classes == ("person", "grass", "car", "sky")
    assert info.things == (True, False, True, False)


def own(layout: Path, **options: Any) -> COCOPanopticConfig:
    found = content()
    found["categories"][0].update(name="a: b", isthing=1)
    store(layout, found, "own.json")
    options = {"classes": None, "train_segments": TRAIN.removesuffix(".json"), **options}
    return config(layout, train_annotations="own.json", **options)


def test_classes_come_from_the_file_that_is_named(layout: Path) -> None:
    named = own(layout)
    assert named.info.classes == ("person", "grass", "car", "a: b")
    assert named.info.things == (True, False, True, True)
    assert len(named.build("train")) == 4
    line = refused(lambda: named.build("val"))
    assert f"{layout / VAL}: category 90 is called sky (stuff) here but a: b (a thing) in data.classes" in line
    assert "set data.classes=null 'data.classes={1: {name: person, isthing: true}, 2: {" in line


def test_a_configuration_keeps_its_classes_without_the_file(layout: Path) -> None:
    named = own(layout)
    (layout / "own.json").unlink()
    assert validate(COCOPanopticConfig, json.loads(json.dumps(dump(named))), "data") == named


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": {}}, "there are no classes"),
        ({"classes": ["a"]}, "is not a mapping of category ids to name and isthing; write for example {1: {name: p"),
        ({"classes": {1: "person"}}, "is not a mapping of category ids to name and isthing"),
        ({"classes": {1: {"name": "person"}}}, "is not a mapping of category ids to name and isthing"),
        ({"classes": {1: {"name": "person", "isthing": True, "color": 3}}}, "is not a mapping of category ids to"),
        ({"classes": {1: {"name": "", "isthing": True}}}, "data: classes.1.name: '' is not possible"),
        ({"classes": {1: {"name": "a", "isthing": "often"}}}, "data: classes.1.isthing: 'often' is not possible"),
        ({"classes": {-1: {"name": "a", "isthing": True}}}, "greater than or equal to 0"),
        ({"classes": {key: {"name": "a", "isthing": True} for key in (1, 2)}}, "two classes are called a"),
        ({"classes": {key: {"name": f"{key}", "isthing": True} for key in range(32769)}}, "more than 32768 classes"),
        ({"classes": None, "train_annotations": "own.json"}, "own.json: no such file; the classes would be read from"),
        ({"things_from": "instance"}, "did you mean instances?"),
        ({"on_error": "ignore"}, "'ignore' is not possible"),
        ({"masks": True}, "unknown key"),
    ],
)
def test_impossible_configurations(options: dict[str, Any], message: str) -> None:
    assert message in refused(lambda: config(**{"root": "nowhere", **options}))


# --- samples ---------------------------------------------------------------------------------------------------------


def test_training_has_objects_and_a_semantic_map(layout: Path) -> None:
    sample = sample_of(config(layout).build("train"), 9)
    objects, masks = objects_of(sample)
    assert objects.labels.tolist() == [CAR, PERSON, PERSON]
    assert objects.crowd.tolist() == [False, False, True]
    assert objects.boxes.tolist() == [[5, 12, 25, 20], [30, 12, 36, 32], [40, 12, 55, 18]]
    assert (objects.labels.dtype, objects.boxes.dtype, masks.dtype) == (np.int64, np.float32, bool)
    expected = np.full((40, 60), IGNORE)
    for mask, (_, category, _, (x, y, w, h)) in zip(masks, SEGMENTS[9][1:4], strict=True):
        alone = np.zeros((40, 60), bool)
        alone[y : y + h, x : x + w] = True
        assert np.array_equal(mask, alone)
        expected[alone] = LABELS[category]
    expected[:10], expected[35:] = SKY, GRASS
    assert sample.semantic is not None
    assert sample.semantic.dtype == np.int16
    assert np.array_equal(sample.semantic, expected)
    assert sample.panoptic is None


def test_evaluation_has_the_panoptic_map(layout: Path) -> None:
    dataset = config(layout).build("val")
    assert image_ids(dataset) == sorted(SIZES)
    assert dataset.groups is None
    for image, segments in SEGMENTS.items():
        sample = sample_of(dataset, image)
        assert (sample.semantic, sample.objects) == (None, None)
        assert sample.image.shape == (*SIZES[image], 3)
        assert sample.panoptic is not None
        assert sample.panoptic.ids.dtype == torch.int32
        assert np.array_equal(sample.panoptic.ids, ids_of(image))
        assert sample.panoptic.labels == {key: LABELS[category] for key, category, _, _ in segments}
        assert sample.panoptic.crowd == {key: bool(crowd) for key, _, crowd, _ in segments}


def test_ids_are_red_then_green_then_blue(layout: Path) -> None:
    path = layout / VAL.removesuffix(".json") / "000000000005.png"
    Image.new("RGB", (40, 60), (1, 2, 3)).save(path)
    spoil(layout, lambda found: segment(found, 5, 7).update(id=1 + 2 * 256 + 3 * 65536), VAL)
    panoptic = sample_of(config(layout).build("val"), 5).panoptic
    assert panoptic is not None
    assert set(panoptic.ids.unique().tolist()) == set(panoptic.labels) == {197121}


@pytest.mark.parametrize("split", ["train", "val"])
def test_scoring_opens_no_image(layout: Path, split: Any) -> None:
    dataset = config(layout).build(split)
    expected = [dataset.load(index).target() for index in range(len(dataset))]
    (layout / f"{split}2017").rename(layout / "elsewhere")
    dataset = config(layout).build(split, annotations_only=True)
    for index, target in enumerate(expected):
        assert_equal(dataset.target(index), target)
    assert "no such folder" in refused(lambda: config(layout).build(split))


def assert_equal(left: Any, right: Any) -> None:
    """As records with tensors somewhere within."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
        assert left.dtype == right.dtype
    elif hasattr(left, "__dict__"):
        assert vars(left).keys() == vars(right).keys()
        for name in vars(left):
            assert_equal(getattr(left, name), getattr(right, name))
    else:
        assert left == right


BOXES = {  # in an image of 40 x 60 (width x height): the training box that is left
    (-5, -6, 20.5, 30): [0, 0, 15.5, 24],
    (30, 50, 30, 30): [30, 50, 40, 60],
    (40, 0, 5, 5): None,
    (3, 3, 0, 9): None,
    (3, 3, 9, 0.5): None,
    (3, 3, 1, 1): [3, 3, 4, 4],
}


@pytest.mark.parametrize(("box", "left"), BOXES.items())
def test_boxes_that_teach_nothing_are_no_objects(layout: Path, box: Any, left: list[float] | None) -> None:
    spoil(layout, lambda found: segment(found, 5, 7).update(bbox=list(box)))
    sample = sample_of(config(layout).build("train"), 5)
    objects, masks = objects_of(sample)
    assert objects.boxes.tolist() == ([] if left is None else [left])
    assert masks.shape == (0 if left is None else 1, 60, 40)
    assert sample.semantic is not None
    assert (sample.semantic == PERSON).all()


def test_images_without_segments(layout: Path) -> None:
    sample = sample_of(config(layout, train_empty_images=True).build("train"), 30)
    objects, masks = objects_of(sample)
    assert (objects.boxes.shape, objects.labels.shape, masks.shape) == ((0, 4), (0,), (0, 33, 70))
    assert sample.semantic is not None
    assert (sample.semantic == IGNORE).all()


def test_training_leaves_out_images_without_things_and_small_ones(layout: Path) -> None:
    assert image_ids(config(layout).build("train")) == [5, 9, 12]
    assert image_ids(config(layout, min_side=1).build("train")) == [5, 9, 12, 20]
    assert image_ids(config(layout, train_empty_images=True).build("train")) == [5, 7, 9, 12, 30]
    assert "lower data.min_side" in refused(lambda: config(layout, min_side=100).build("train"))


def test_groups_tell_wide_images(layout: Path) -> None:
    dataset = config(layout).build("train")
    assert dataset.groups is not None
    assert (dataset.groups.tolist(), dataset.group_size) == ([0, 1, 1], 2)


def test_a_few_arrays_hold_everything(layout: Path) -> None:
    dataset = config(layout).build("train")
    assert dataset._segments.others == ()
    assert all(isinstance(value, np.ndarray | Names | tuple) for value in vars(dataset._segments).values())
    assert not any(value for value in vars(dataset).values() if isinstance(value, list | tuple | dict | set))
    assert pickle.loads(pickle.dumps(dataset)).load(0).image_id == "5"


def test_folders_of_pngs_may_be_named(layout: Path) -> None:
    (layout / VAL.removesuffix(".json")).rename(layout / "masks")
    line = refused(lambda: config(layout).build("val"))
    assert "panoptic_val2017: no such folder" in line
    assert "data.val_segments" in line
    assert len(config(layout, val_segments=str(layout / "masks")).build("val")) == 6
    spoil(
        layout,
        lambda found: [item.update(file_name=f"masks/{item['file_name']}") for item in found["annotations"]],
        VAL,
    )
    assert len(config(layout, val_segments=".").build("val")) == 6


# --- things from COCO's instances ------------------------------------------------------------------------------------


def with_instances(layout: Path, change: Change = lambda found: None) -> COCOPanopticConfig:
    """A car over all of a person in image 5, and nothing in the others."""
    found = content()
    found["categories"] = [{"id": key, "name": CLASSES[key]["name"]} for key in (1, 3)]
    found["annotations"] = [
        {
            "id": 1,
            "image_id": 5,
            "category_id": 3,
            "bbox": [0, 0, 20, 60],
            "segmentation": [[0, 0, 20, 0, 20, 60, 0, 60]],
        },
        {"id": 2, "image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 9], "segmentation": [[0, 0, 10, 0, 10, 9, 0, 9]]},
    ]
    change(found)
    store(layout, found, INSTANCES)
    return config(layout, things_from="instances")


def test_things_from_instances_may_overlap(layout: Path) -> None:
    dataset = with_instances(layout).build("train")
    assert image_ids(dataset) == [5]
    sample = dataset.load(0)
    objects, masks = objects_of(sample)
    assert objects.labels.tolist() == [CAR, PERSON]
    assert objects.boxes.tolist() == [[0, 0, 20, 60], [0, 0, 10, 9]]
    assert masks.sum(axis=(1, 2)).tolist() == [1200, 90]
    assert masks.all(axis=0).sum() == 90
    assert sample.semantic is not None
    assert (sample.semantic == PERSON).all()
    assert image_ids(with_options(with_instances(layout), train_empty_images=True).build("train")) == [
        5,
        7,
        9,
        12,
        30,
    ]
    assert len(with_instances(layout).build("val")) == 6


def with_options(given: COCOPanopticConfig, **options: Any) -> COCOPanopticConfig:
    return validate(COCOPanopticConfig, {**dump(given), **options}, "data")


def test_images_of_instances_are_matched_by_id(layout: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["images"] = [item for item in reversed(found["images"]) if item["id"] not in (9, 30)]
        found["images"].append({"id": 6, "file_name": "6.jpg", "height": 9, "width": 9})
        next(item for item in found["images"] if item["id"] == 12)["height"] = 37

    given = with_instances(layout, change)
    line = refused(lambda: given.build("train"))
    assert f"{layout / TRAIN}: image 9: is not in {layout / INSTANCES}; correct the file, or leave out" in line
    dataset = with_options(given, on_error="skip", train_empty_images=True).build("train")
    assert image_ids(dataset) == [5, 7]
    assert objects_of(dataset.load(0))[0].labels.tolist() == [CAR, PERSON]
    assert [line.removeprefix(f"{layout / TRAIN}: ") for line in dataset.skipped] == [
        f"image 9: is not in {layout / INSTANCES}",
        f"image 12: has another size in {layout / INSTANCES}",
        f"image 30: is not in {layout / INSTANCES}",
    ]


def test_unusable_instances(layout: Path) -> None:
    given = with_instances(layout, lambda found: found["annotations"][0].update(bbox=[1, 2]))
    assert f"{layout / INSTANCES}: annotation 1: bbox [1, 2] is not" in refused(lambda: given.build("train"))
    dataset = with_options(given, on_error="skip").build("train")
    assert objects_of(dataset.load(0))[0].labels.tolist() == [PERSON]
    assert len(dataset.skipped) == 1

    given = with_instances(layout, lambda found: found["categories"][0].update(name="man"))
    line = refused(lambda: given.build("train"))
    assert f"{INSTANCES}: category 1 is called man here but person in the things of data.classes" in line
    assert "; name a file with these things and images as data.train_instances" in line

    given = with_instances(layout, lambda found: found.update(images=[dict(found["images"][0], id=1)], annotations=[]))
    given = with_options(given, on_error="skip")
    assert f"{INSTANCES}: has no image of {layout / TRAIN}" in refused(lambda: given.build("train"))
    (layout / INSTANCES).unlink()
    assert "set data.train_instances to the file's path" in refused(lambda: given.build("train"))


# --- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_embedded_scenes_as_read_by_other_means(scenes: Path, split: Any) -> None:
    """A plain loop over the files, PNGs read by OpenCV, which has blue first."""
    given = scene_config(scenes, train_empty_images=True)
    dataset = given.build(split)
    file = scenes / f"coco/annotations/panoptic_{split}2017.json"
    records = {record["image_id"]: record for record in json.loads(file.read_text())["annotations"]}
    assert image_ids(dataset) == sorted(records)
    for index, key in enumerate(sorted(records)):
        blue, green, red = cv2.split(cv2.imread(str(file.with_suffix("") / records[key]["file_name"])).astype(int))
        ids, target = red + 256 * green + 65536 * blue, dataset.target(index)
        for item in records[key]["segments_info"]:
            label = given.category_ids.index(item["category_id"])
            if split == "val":
                assert target.panoptic is not None
                assert np.array_equal(target.panoptic.ids == item["id"], ids == item["id"])
                assert target.panoptic.labels[item["id"]] == label
                assert target.panoptic.crowd[item["id"]] == item["iscrowd"]
            else:
                assert target.semantic is not None
                assert (target.semantic.numpy()[ids == item["id"]] == label).all()
                assert (target.semantic.numpy()[ids == 0] == IGNORE).all()
        if split == "train":
            assert target.instances is not None
            things = [item for item in records[key]["segments_info"] if item["category_id"] <= 91]
            assert target.instances.coco_boxes().tolist() == [item["bbox"] for item in things]


@pytest.mark.parametrize("seed", range(4))
def test_objects_and_semantic_map_stay_together(scenes: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = scene_config(scenes)
    dataset, things = given.build("train"), np.array([*given.info.things, False])  # IGNORE is the last
    for index in range(len(dataset)):
        for _ in range(4):
            sample = dataset.load(index)
            sample = resize(sample, (int(rng.integers(20, 90)), int(rng.integers(20, 90))), antialias=True)
            sample = flip(sample) if rng.random() < 0.5 else sample
            top, left = int(rng.integers(8)), int(rng.integers(8))
            sample = crop(sample, top, left, (int(rng.integers(12, 80)), int(rng.integers(12, 80))))
            sample = pad(sample, (24, 24))
            objects, masks = objects_of(sample)
            assert sample.semantic is not None
            assert masks.shape[1:] == sample.semantic.shape
            for mask, label in zip(masks, objects.labels, strict=True):
                assert (sample.semantic[mask] == label).all()
            assert masks.sum(axis=0).max(initial=0) <= 1
            assert np.array_equal(masks.any(axis=0), things[sample.semantic])


def test_the_panoptic_map_stays_as_it_is(scenes: Path) -> None:
    sample = scene_config(scenes).build("val").load(0)
    for changed in (
        flip(sample),
        resize(sample, (20, 30)),
        crop(sample, 1, 2, (9, 9)),
        pad(sample, (99, 99)),
    ):
        assert changed.panoptic is sample.panoptic
        assert changed.target().panoptic is sample.panoptic
    assert sample.without_annotation().panoptic is None


def test_loaders_pass_everything_on(scenes: Path) -> None:
    given = scene_config(scenes)
    validation, training = given.build("val"), given.build("train")
    batches = list(evaluation_loader(validation, given.test_transforms, batch_size=2, size_divisor=32, workers=1))
    targets = [target for batch in batches for target in batch.to("cpu").targets]
    assert len(targets) == 5
    for index, target in enumerate(targets):
        assert_equal(target, validation.target(index))
    layout = BatchLayout(per_process=2)
    loader = training_loader(training, given.train_transforms, seed=0, layout=layout, size_divisor=32)
    batch = next(loader).to("cpu")
    for target in batch.targets:
        assert target.semantic is not None
        assert target.instances is not None
        assert target.semantic.shape == batch.images.shape[2:]
        assert target.panoptic is None


# --- unusable entries ------------------------------------------------------------------------------------------------


def to(**values: Any) -> Change:
    return lambda record: record.update(values)


def without(key: str) -> Change:
    return lambda record: record.pop(key)


def of_segment(change: Change) -> Change:
    return lambda found: change(segment(found, 9, 1))


def of_annotation(change: Change) -> Change:
    return lambda found: change(annotation(found, 9))


def of_image(change: Change) -> Change:
    return lambda found: change(found["images"][0])


ENTRIES = [
    (of_segment(without("id")), "annotation of image 9: segments_info[1] has no id from 1 to 16777215"),
    (of_segment(to(id=0)), "annotation of image 9: segments_info[1] has no id from 1 to 16777215"),
    (of_segment(to(id=2**24)), "annotation of image 9: segments_info[1] has no id from 1 to 16777215"),
    (of_segment(to(id=1.5)), "annotation of image 9: segments_info[1] has no id from 1 to 16777215"),
    (of_segment(to(id=256)), "annotation of image 9: segment 256 appears twice"),
    (of_segment(to(category_id=4)), "annotation of image 9: segment 1: category_id 4 is not one of the categories"),
    (of_segment(to(category_id=[3])), "annotation of image 9: segment 1: category_id [3] is not one of the categories"),
    (of_segment(to(category_id=True)), "annotation of image 9: segment 1: category_id True is not one of the"),
    (of_segment(to(iscrowd=2)), "annotation of image 9: segment 1: iscrowd is 2, neither 0 nor 1"),
    (
        of_segment(to(category_id=2, iscrowd=1)),
        "annotation of image 9: segment 1: iscrowd is 1, but category 2 is st",
    ),
    (of_segment(to(bbox=[])), "annotation of image 9: segment 1: bbox [] is not [x, y, width, height]"),
    (of_segment(to(bbox=[1, 2, 3, "4"])), "annotation of image 9: segment 1: bbox [1, 2, 3, '4'] is not"),
    (of_segment(to(bbox=[1, 2, -3, 4])), "annotation of image 9: segment 1: bbox [1, 2, -3, 4] is inverted"),
    (of_annotation(without("segments_info")), "annotation of image 9: has no list segments_info"),
    (of_annotation(to(segments_info=[3])), "annotation of image 9: segments_info[0] has no id"),
    (of_annotation(without("file_name")), "annotation of image 9: file_name None is not a file name"),
    (
        of_annotation(to(file_name="../a.png")),
        "annotation of image 9: file_name ../a.png leads out of the PNGs' folder",
    ),
    (of_annotation(to(file_name="/a.png")), "annotation of image 9: file_name /a.png leads out of the PNGs' folder"),
    (of_annotation(to(file_name="absent.png")), "annotation of image 9: there is no file absent.png in"),
    (lambda found: found["annotations"].append(annotation(found, 9)), "annotation of image 9: appears twice"),
    (lambda found: found["annotations"].remove(annotation(found, 9)), "image 9: has no annotation"),
    (of_image(to(height=0)), "image 9: width 60 and height 0 are not positive integers"),
    (of_image(to(file_name="absent.jpg")), "image 9: there is no file absent.jpg in"),
    (of_image(to(file_name="../val2017/000000000009.jpg")), "leads out of the images' folder"),
]


@pytest.mark.parametrize(("change", "message"), ENTRIES)
def test_unusable_entries_cost_their_image(layout: Path, change: Change, message: str) -> None:
    spoil(layout, change)
    line = refused(lambda: config(layout).build("train"))
    assert line.startswith(f"{layout / TRAIN}: ")
    assert message in line
    assert line.endswith("; correct the file, or leave out what is unusable with data.on_error=skip")
    dataset = config(layout, on_error="skip", train_empty_images=True).build("train")
    assert image_ids(dataset) == [5, 7, 12, 30]
    assert list(dataset.skipped) == [line.partition("; correct the file")[0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: found["annotations"].append(dict(found["annotations"][0], image_id=99)),
            "annotation of image 99: the",
        ),
        (lambda found: found["annotations"].append({"segments_info": []}), "annotations[6]: has no integer image_id"),
        (lambda found: found["annotations"].append(None), "annotations[6]: has no integer image_id"),
        (lambda found: found["images"].append({"id": "x"}), "images[6]: has no integer id"),
    ],
)
def test_unusable_entries_of_no_image(layout: Path, change: Change, message: str) -> None:
    spoil(layout, change, VAL)
    assert message in refused(lambda: config(layout).build("val"))
    dataset = config(layout, on_error="skip").build("val")
    assert image_ids(dataset) == sorted(SIZES)
    assert len(dataset.skipped) == 1


def test_what_may_be_missing(layout: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        for record in found["annotations"]:
            for item in record["segments_info"]:
                del item["area"], item["iscrowd"]

    spoil(layout, change)
    assert not config(layout).build("train")._segments.crowd.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("images"), "has no images; give a file in the form of COCO's panoptic_train2017.json"),
        (lambda found: found.update(images=[], annotations=[]), "lists no usable image"),
        (lambda found: found.update(annotations={}), "annotations is not a list"),
        (lambda found: found.pop("categories"), "has no categories"),
        (lambda found: found["categories"][0].pop("isthing"), "category 90: has no isthing"),
        (lambda found: found["categories"][0].update(isthing=2), "category 90: isthing is 2, neither 0 nor 1"),
        (lambda found: found["categories"][0].pop("name"), "categories[0]: lacks an integer id or a name"),
        (lambda found: found["categories"].append(found["categories"][0]), "category 90: appears twice"),
        (
            lambda found: found["categories"][0].update(isthing=1),
            "category 90 is called sky (a thing) here but sky (stuff) in data.classes",
        ),
        (
            lambda found: found.update(categories=[{"id": 5, "name": "x", "isthing": 0}]),
            "category 5 is called x (stuff) here but is not in data.classes",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_unusable_files(layout: Path, change: Change, message: str, on_error: str) -> None:
    spoil(layout, change)
    line = refused(lambda: config(layout, on_error=on_error).build("train"))
    assert line.startswith(f"{layout / TRAIN}: ")
    assert message in line


def test_missing_paths_name_their_key(layout: Path) -> None:
    assert "tools.prepare_coco --root" in refused(lambda: config(layout / "coco").build("val"))
    assert "data.val_annotations" in refused(lambda: config(layout, val_annotations="a.json").build("val"))
    assert "data.train_segments" in refused(lambda: config(layout, train_segments="a").build("train"))
    assert "data.train_images" in refused(lambda: config(layout, train_images="a").build("train"))
    assert "data.train_instances" in refused(
        lambda: config(layout, things_from="instances", train_instances="a").build("train")
    )


# --- unusable pixels -------------------------------------------------------------------------------------------------


def png(layout: Path, image: int = 9) -> Path:
    return layout / TRAIN.removesuffix(".json") / f"{image:012d}.png"


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "L"), ("P", "P"), ("RGBA", "RGBA"), ("LA", "LA"), ("I;16", "I;16"), ("1", "1")]
)
def test_pngs_of_another_kind(layout: Path, mode: str, kind: str, on_error: str) -> None:
    Image.new(mode, (60, 40)).save(png(layout))
    dataset = config(layout, on_error=on_error).build("train")
    line = refused(lambda: sample_of(dataset, 9))
    assert line.startswith(f"{png(layout)}: has pixels of kind {kind} where R + 256 G + 65536 B is expected; store")


def test_pngs_of_16_bits(layout: Path) -> None:
    cv2.imwrite(str(png(layout)), np.ones((40, 60, 3), np.uint16))
    line = refused(lambda: config(layout).build("train").target(1))
    assert "has pixels of kind RGB with 16 bits each where R + 256 G + 65536 B is expected" in line


def test_pngs_that_are_none(layout: Path) -> None:
    Image.new("RGB", (60, 40)).save(png(layout), format="JPEG")
    dataset = config(layout).build("train")
    assert "is a JPEG file; store labels as PNG" in refused(lambda: dataset.target(1))
    store_png(png(layout), ids_of(9))
    png(layout).write_bytes(png(layout).read_bytes()[:-60])
    assert "is damaged or truncated" in refused(lambda: dataset.target(1))
    png(layout).unlink()
    assert "no such file" in refused(lambda: dataset.target(1))


def test_pngs_of_another_size(layout: Path) -> None:
    store_png(png(layout), ids_of(9).T)
    line = refused(lambda: config(layout).build("train").target(1))
    assert f"{png(layout)}: is 40 x 60 pixels (width x height) but image 9 of {layout / TRAIN} is 60 x 40" in line


def test_images_of_another_size(layout: Path) -> None:
    cv2.imwrite(str(layout / "train2017/000000000009.jpg"), np.zeros((60, 40, 3), np.uint8))
    line = refused(lambda: config(layout).build("train").load(1))
    assert f"is displayed at 40 x 60 (width x height) but image 9 of {layout / TRAIN} is 60 x 40" in line


def test_ids_in_the_png_alone(layout: Path) -> None:
    ids = ids_of(9)
    ids[0, :3] = 3, 2, 2
    store_png(png(layout), ids)
    line = refused(lambda: config(layout).build("train").target(1))
    expected = f"segment 2 is in the PNG but not in the segments_info of image 9 of {layout / TRAIN} (and 1 more); make"
    assert line.startswith(f"{png(layout)}: {expected}")


def test_ids_in_the_json_alone(layout: Path) -> None:
    extra = {"id": 77, "category_id": 1, "bbox": [0, 0, 5, 5]}
    spoil(layout, lambda found: annotation(found, 9)["segments_info"].append(extra), VAL)
    line = refused(lambda: config(layout).build("val").target(2))
    assert f"segment 77 is in the segments_info of image 9 of {layout / VAL} but not in the PNG; make" in line
