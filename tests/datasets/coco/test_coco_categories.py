"""Categories of the files and classes of the data: a part of them, several of one name, advice that can be pasted."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from config import dump, read_overrides, validate
from datasets.coco.dataset import COCOConfig
from tests.datasets.coco.coco_layout import CATEGORIES, TRAIN, VAL, config, refused, store, stored, write_layout
from tests.datasets.panoptic import panoptic_layout

PERSON = {1: "person"}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def with_categories(root: Path, categories: list[dict[str, Any]], *files: str) -> Path:
    for file in files or (TRAIN, VAL):
        store(root, {**stored(root, TRAIN), "categories": categories}, file)
    return root


# --- some of the categories ------------------------------------------------------------------------------------------


def test_classes_may_be_some_of_the_categories(layout: Path) -> None:
    dataset = config(layout, classes=PERSON).build("val")
    found = [dataset.target(index).instances for index in range(len(dataset))]
    assert [len(instances.labels) for instances in found if instances is not None] == [1, 0, 1, 0, 1, 1]


def test_images_without_an_object_of_a_class_are_empty(layout: Path) -> None:
    dataset = config(layout, classes=PERSON).build("train")
    assert [dataset.target(index).image_id for index in range(len(dataset))] == ["5", "9", "30"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_of_other_categories_are_counted_and_stated(layout: Path, split: Any) -> None:
    dataset = config(layout, classes=PERSON).build(split)
    assert dataset.survey().left_out["of categories that are not in data.classes (toothbrush, car)"] == 4
    assert dataset.protocol == {"categories_left_out": {"toothbrush": 1, "car": 3}}


def test_validation_may_have_more_categories(layout: Path) -> None:
    content = stored(layout)
    content["categories"] = [item for item in CATEGORIES if item["id"] != 3]
    content["annotations"] = [item for item in content["annotations"] if item["category_id"] != 3]
    store(layout, content, "own.json")
    given = config(layout, train_annotations="own.json")
    assert given.info.classes == ("person", "toothbrush")
    assert given.build("val").protocol == {"categories_left_out": {"car": 3}}


def test_a_category_that_nothing_has_is_not_stated(layout: Path) -> None:
    with_categories(layout, [*CATEGORIES, {"id": 200, "name": "forklift"}])
    assert config(layout).build("val").protocol == {}
    assert "forklift" not in str(config(layout).build("val").survey())


def test_names_must_agree(layout: Path) -> None:
    line = refused(lambda: config(layout, classes={1: "person", 3: "truck"}).build("train"))
    assert "category 3 is called car here but truck in data.classes" in line


def test_a_class_of_another_id_is_refused_if_it_is_annotated(layout: Path) -> None:
    line = refused(lambda: config(layout, classes={1: "person", 4: "car"}).build("train"))
    assert "category 3 is called car here, but category 4 is called car in data.classes" in line


def test_no_common_category_is_refused(layout: Path) -> None:
    line = refused(lambda: config(layout, classes={7: "cat"}).build("train"))
    assert "category 90 is called toothbrush here but is not in data.classes (and 2 more differ)" in line


def test_where_nothing_else_is_annotated_the_other_categories_are_the_reason(layout: Path) -> None:
    content = stored(layout)
    content["annotations"] = [item for item in content["annotations"] if item["category_id"] != 1]
    store(layout, content)
    line = refused(lambda: config(layout, classes=PERSON).build("train"))
    assert "none of its 6 images has an annotation, but 4 are of categories that are not in data.classes (t" in line
    assert line.endswith("list these in data.classes, or name other annotations")


# --- several of one name ---------------------------------------------------------------------------------------------

ROOT = {"id": 0, "name": "person", "supercategory": "none"}


def test_a_category_of_the_name_of_a_class_that_nothing_has_is_left_out(layout: Path) -> None:
    with_categories(layout, [ROOT, *CATEGORIES], "own.json", VAL)
    given = config(layout, train_annotations="own.json")
    assert given.category_ids == (1, 3, 90)
    for split in ("train", "val"):
        assert list(given.build(split).survey().warnings) == [
            "category 0 of the file is called person as a class is and has no annotation: it is left out"
        ]


def test_of_two_unused_categories_of_one_name_the_last_stays(layout: Path) -> None:
    extra = [{"id": 200, "name": "forklift"}, {"id": 201, "name": "forklift"}]
    with_categories(layout, [*CATEGORIES, *extra], "own.json")
    assert config(layout, train_annotations="own.json").category_ids == (1, 3, 90, 201)


def test_two_annotated_categories_of_one_name_are_refused_with_their_file(layout: Path) -> None:
    with_categories(layout, [*CATEGORIES[:2], {"id": 3, "name": "person"}], "own.json")
    line = refused(lambda: config(layout, train_annotations="own.json"))
    assert line.startswith(f"{layout / 'own.json'}: categories 1 and 3 are both called person, and both have annotatio")


def test_panoptic_categories_of_one_name_too(tmp_path: Path) -> None:
    root = panoptic_layout.write_layout(tmp_path)
    content = panoptic_layout.stored(root)
    content["categories"].insert(0, {"id": 0, "name": "person", "isthing": 1})
    panoptic_layout.store(root, content, "own.json")
    options = {"classes": None, "train_annotations": "own.json", "train_segments": "annotations/panoptic_train2017"}
    given = panoptic_layout.config(root, **options)
    assert given.category_ids == (1, 2, 3, 90)
    assert "category 0 of the file is called person" in str(given.build("train").survey().warnings)


# --- advice ----------------------------------------------------------------------------------------------------------


def follow(line: str, old: dict[str, Any]) -> dict[str, Any]:
    """The data configuration after the settings in an error's advice were pasted into a shell."""
    settings = shlex.split(line[line.index("data.classes=null") :])
    data: dict[str, Any] = read_overrides({"data": old}, settings)["data"]
    return data


HARD_NAMES = [
    *("it's", 'say "a"', "a: b", "no", "1", "null", "{a, b}", "a  b", " a", "#1", "$HOME", "`ls`", "a\\b", "ä", "🦜"),
    *("a\tb", "a\nb", "!x", "a;b", "'", "a, b", "\x7f", "yes: 'no'"),
]


@pytest.mark.parametrize("name", HARD_NAMES)
def test_advice_to_set_classes_can_be_pasted(layout: Path, name: str) -> None:
    with_categories(layout, [{"id": 1, "name": name}, *CATEGORIES[:1], *CATEGORIES[2:]])
    old = config(layout, classes={1: "old", 2: "older"})
    line = refused(lambda: old.build("train"))
    new = validate(COCOConfig, follow(line, dump(old)), "data")
    assert new.classes == {1: name, 3: "car", 90: "toothbrush"}
    assert len(new.build("train")) == 4


def test_advice_leaves_out_categories_that_could_be_no_classes(layout: Path) -> None:
    with_categories(layout, [ROOT, *CATEGORIES])
    old = config(layout, classes={1: "old"})
    new = validate(COCOConfig, follow(refused(lambda: old.build("train")), dump(old)), "data")
    assert new.category_ids == (1, 3, 90)


def test_advice_for_an_own_training_file_is_to_read_it(layout: Path) -> None:
    with_categories(layout, [{"id": 100 + key, "name": f"class {key}"} for key in range(80)] + CATEGORIES, "own.json")
    old = config(layout, train_annotations="own.json", classes={1: "old"})
    line = refused(lambda: old.build("train"))
    assert line.endswith("; name another file, or take the categories of data.train_annotations with data.classes=null")
    assert len(validate(COCOConfig, follow(line, dump(old)), "data").build("train")) == 4


def test_advice_for_validation_is_to_score_it_alone(layout: Path) -> None:
    with_categories(layout, [{"id": 1, "name": "man"}, *CATEGORIES[:1], *CATEGORIES[2:]], VAL)
    old = config(layout)
    assert len(old.build("train")) == 4
    line = refused(lambda: old.build("val"))
    assert "; give both splits the same ids and names; to score this file alone, set data.classes=null '" in line
    assert len(validate(COCOConfig, follow(line, dump(old)), "data").build("val")) == 6


@pytest.mark.parametrize("name", ["it's", "a: b"])
def test_advice_on_panoptic_classes_can_be_pasted(tmp_path: Path, name: str) -> None:
    root = panoptic_layout.write_layout(tmp_path)
    panoptic_layout.spoil(root, lambda content: content["categories"][0].update(name=name))
    old = panoptic_layout.config(root)
    line = refused(lambda: old.build("train"))
    new = validate(panoptic_layout.COCOPanopticConfig, follow(line, dump(old)), "data")
    assert new.info.classes == ("person", "grass", "car", name)
    assert len(new.build("train")) == 3


def test_two_classes_of_one_name_may_be_left_out(layout: Path) -> None:
    message = refused(lambda: config(layout, classes={0: "person", 1: "person"}))
    assert "two classes are called person; leave one out, or give every class its own name" in message
