"""What a panoptic split holds, classes that are some of the categories, boxes that the JSON lacks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import dump, validate
from datasets.base import Survey
from datasets.loading import BatchLayout, training_loader
from datasets.panoptic.dataset import COCOPanopticConfig
from experiment import load_experiment
from structures import IGNORE
from tests.datasets.coco.coco_layout import refused
from tests.datasets.panoptic.panoptic_layout import (
    CLASSES,
    INSTANCES,
    TRAIN,
    VAL,
    config,
    content,
    ids_of,
    image_ids,
    place,
    segment,
    spoil,
    store,
    write_layout,
)

Json = dict[str, Any]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def change_all(root: Path, change: Callable[[Json], object], thing: bool | None = None) -> None:
    """Change all segments of both splits, or those of things or of stuff."""

    def of_all(found: Json) -> None:
        for record in found["annotations"]:
            for item in record["segments_info"]:
                if thing in (None, CLASSES[item["category_id"]]["isthing"]):
                    change(item)

    for file in (TRAIN, VAL):
        spoil(root, of_all, file)


def to(**values: Any) -> Callable[[Json], object]:
    return lambda item: item.update(values)


def survey(root: Path, split: Any, **options: Any) -> Survey:
    return config(root, **options).build(split).survey()


def left_out(found: Survey) -> dict[str, int]:
    return {reason: count for reason, count in found.left_out.items() if count}


# --- counts ----------------------------------------------------------------------------------------------------------


def test_segments_are_counted_by_class(layout: Path) -> None:
    found = survey(layout, "train")
    assert found.unit == "segments"
    assert found.counts == {"person": 2, "grass": 1, "car": 1, "sky": 1}
    assert survey(layout, "val").counts == {"person": 3, "grass": 3, "car": 1, "sky": 2}


def test_what_is_left_out_is_counted_by_reason(layout: Path) -> None:
    spoil(layout, lambda found: segment(found, 5, 7).update(bbox=[1, 1, 9, 0.5]))
    assert left_out(survey(layout, "train")) == {
        "image(s) with a side below 32 pixels": 1,
        "image(s) without a thing": 2,
        "crowds (iscrowd 1)": 2,
        "with a box narrower or lower than a pixel": 1,
    }
    assert left_out(survey(layout, "val")) == {"crowds (iscrowd 1)": 2}


def test_things_of_another_file_are_counted_there(layout: Path) -> None:
    found = content()
    found["categories"] = [{"id": key, "name": CLASSES[key]["name"]} for key in (1, 3)] + [{"id": 8, "name": "kite"}]
    shape = {"bbox": [0, 0, 20, 20], "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]}
    found["annotations"] = [
        {"id": 1, "image_id": 9, "category_id": 3, **shape},
        {"id": 2, "image_id": 9, "category_id": 3, **shape, "area": 0},
        {"id": 3, "image_id": 9, "category_id": 8, **shape},
    ]
    store(layout, found, INSTANCES)
    split = survey(layout, "train", things_from="instances")
    assert split.counts == {"person": 0, "grass": 1, "car": 1, "sky": 1}
    assert left_out(split)["with area 0 or less"] == 1
    assert left_out(split)["of categories that are not in data.classes (kite)"] == 1
    assert left_out(split)["image(s) without a thing"] == 4


# --- nothing is left -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (to(iscrowd=1), "all 5 things are crowds (iscrowd 1), nothing to learn; set data.crowds=objects"),
        (to(iscrowd=0, bbox=[0, 0, 0, 0]), "all 5 things have a box narrower or lower than a pixel, nothing to learn"),
        (to(iscrowd=0, bbox=[0.1, 0.1, 0.5, 0.5]), "all 5 boxes lie within 0..1, as if relative to the image size"),
    ],
)
def test_things_without_one_to_learn_say_why(layout: Path, change: Any, message: str) -> None:
    change_all(layout, change, thing=True)
    for empty in (False, True):
        line = refused(lambda: survey(layout, "train", train_empty_images=empty))  # noqa: B023
        assert line.startswith(f"{layout / TRAIN}: {message}")


def test_nothing_left_to_score_says_why(layout: Path) -> None:
    change_all(layout, to(category_id=1, iscrowd=1))
    line = refused(lambda: survey(layout, "val"))
    assert line.startswith(f"{layout / VAL}: all 11 segments are crowds (iscrowd 1), nothing to score; set data.crowds")


def test_no_segment_at_all(layout: Path) -> None:
    for file in (TRAIN, VAL):
        spoil(layout, lambda found: [item.update(segments_info=[]) for item in found["annotations"]], file)
    assert "none of its 6 images has a segment; name other" in refused(lambda: survey(layout, "val"))
    assert "none of its 6 images has a segment; name" in refused(
        lambda: survey(layout, "train", train_empty_images=True)
    )


def test_no_thing_is_the_reason_and_the_advice_helps(layout: Path) -> None:
    change_all(layout, to(category_id=2, iscrowd=0), thing=True)
    line = refused(lambda: config(layout).build("train"))
    reason = "none of its 6 images has a thing; set data.train_empty_images=true, or name other annotations"
    assert line == f"{layout / TRAIN}: {reason}"
    found = survey(layout, "train", train_empty_images=True)
    assert found.counts["grass"] > 0
    assert found.warnings == ["no segment of 2 of 4 classes: person, car"]


def test_crowds_may_be_objects(layout: Path) -> None:
    change_all(layout, to(iscrowd=1))
    dataset = config(layout, crowds="objects").build("train")
    assert image_ids(dataset) == [5, 9, 12]
    objects = dataset.load(1).objects
    assert objects is not None
    assert not objects.crowd.any()
    assert dataset.survey().counts == {"person": 3, "grass": 1, "car": 2, "sky": 1}
    assert config(layout, crowds="objects").build("val").protocol == {"crowds": "taken as objects"}


def test_boxes_as_corners_are_a_warning(layout: Path) -> None:
    change_all(layout, to(bbox=[25, 20, 34, 30], iscrowd=0), thing=True)
    expected = "5 of 5 boxes end beyond their image, as if they were corners x1 y1 x2 y2"
    assert survey(layout, "train").warnings[0].startswith(expected)


# --- data without things ---------------------------------------------------------------------------------------------

STUFF = {key: item for key, item in CLASSES.items() if not item["isthing"]}


def test_data_without_thing_classes_train_on_every_image(layout: Path) -> None:
    change_all(layout, to(category_id=2, iscrowd=0), thing=True)
    dataset = config(layout, classes=STUFF).build("train")
    assert image_ids(dataset) == [5, 7, 9, 12, 30]
    objects = dataset.load(0).objects
    assert objects is not None
    assert objects.boxes.shape == (0, 4)


def test_panoptic_fpn_says_at_once_that_it_needs_things(layout: Path) -> None:
    words = [f"data.root={layout}", "data.classes=null", f"data.classes={json.dumps(STUFF)}"]
    experiment = load_experiment("configs/small/pan.yaml", words)
    assert len(experiment.data.build("train")) == 5
    line = refused(experiment.build_model)
    assert "panoptic_fpn needs things, but none of the classes of coco_panoptic is a thing: use maskformer" in line


def test_maskformer_learns_data_without_things(layout: Path) -> None:
    change_all(layout, to(category_id=2, iscrowd=0), thing=True)
    small = "{name: maskformer, backbone: {name: mit_b0, channels: [8, 16, 40, 64]}, upsampler: nearest, layers: 1}"
    words = [f"data.root={layout}", "data.classes=null", f"data.classes={json.dumps(STUFF)}", f"model={small}"]
    words += ["model.channels=32", "model.hidden=8", "model.queries=4", "optimizer.rules=[]"]
    experiment = load_experiment("configs/small/pan.yaml", words)
    model = experiment.build_model()
    dataset = experiment.data.build("train")
    batch = next(
        training_loader(dataset, experiment.data.train_transforms, seed=0, layout=BatchLayout(2), size_divisor=32)
    )
    losses = model(batch.to("cpu"))
    assert all(torch.isfinite(loss) for loss in losses.values())


# --- some of the categories ------------------------------------------------------------------------------------------

PART = {key: CLASSES[key] for key in (1, 90)}


def test_segments_of_other_categories_are_void_in_training(layout: Path) -> None:
    dataset = config(layout, classes=PART).build("train")
    assert image_ids(dataset) == [5, 9]
    sample = dataset.load(1)
    assert sample.objects is not None
    assert sample.objects.labels.tolist() == [0, 0]
    assert sample.semantic is not None
    ids = ids_of(9)
    expected = np.select([np.isin(ids, (256, 66051)), ids == 65536], [0, 1], IGNORE)
    assert np.array_equal(sample.semantic, expected)


def test_segments_of_other_categories_are_void_in_evaluation(layout: Path) -> None:
    dataset = config(layout, classes=PART).build("val")
    panoptic = dataset.load(place(dataset, 9)).panoptic
    assert panoptic is not None
    ids = ids_of(9)
    assert panoptic.ids.dtype == torch.int32
    assert np.array_equal(panoptic.ids, np.where(np.isin(ids, (256, 66051, 65536)), ids, 0))
    assert panoptic.labels == {65536: 1, 256: 0, 66051: 0}
    assert panoptic.crowd == {65536: False, 256: False, 66051: True}


@pytest.mark.parametrize("split", ["train", "val"])
def test_segments_of_other_categories_are_counted_and_stated(layout: Path, split: Any) -> None:
    dataset = config(layout, classes=PART).build(split)
    assert dataset.survey().left_out["of categories that are not in data.classes (car, grass)"] == 5
    assert dataset.protocol == {"categories_left_out": {"car": 2, "grass": 3}}


def test_a_thing_that_is_stuff_in_the_classes_is_refused(layout: Path) -> None:
    line = refused(lambda: config(layout, classes={1: {"name": "person", "isthing": False}}).build("val"))
    assert "category 1 is called person (a thing) here but person (stuff) in data.classes" in line


# --- boxes that the JSON lacks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda item: item.pop("bbox"), to(bbox=None)])
def test_missing_boxes_come_from_the_png(layout: Path, change: Any) -> None:
    expected = [config(layout).build("train").load(index).objects for index in range(3)]
    change_all(layout, change)
    change_all(layout, lambda item: item.pop("area"))
    dataset = config(layout).build("train")
    for index, objects in enumerate(expected):
        found = dataset.load(index).objects
        assert found is not None
        assert objects is not None
        assert found.boxes.dtype == np.float32
        assert found.boxes.tolist() == objects.boxes.tolist()
        assert found.labels.tolist() == objects.labels.tolist()
        assert np.array_equal(found.masks, objects.masks)
    assert left_out(dataset.survey()).keys() == {
        "image(s) with a side below 32 pixels",
        "image(s) without a thing",
        "crowds (iscrowd 1)",
    }
    assert dataset.survey().warnings == []


def test_given_boxes_stay_beside_missing_ones(layout: Path) -> None:
    spoil(layout, lambda found: segment(found, 9, 1).update(bbox=[5, 12, 21, 9]))
    spoil(layout, lambda found: segment(found, 9, 256).pop("bbox"))
    objects = config(layout).build("train").load(1).objects
    assert objects is not None
    assert objects.boxes.tolist() == [[5, 12, 26, 21], [30, 12, 36, 32], [40, 12, 55, 18]]


def test_a_configuration_keeps_what_crowds_mean(layout: Path) -> None:
    given = config(layout, crowds="objects")
    assert validate(COCOPanopticConfig, dump(given), "data") == given
