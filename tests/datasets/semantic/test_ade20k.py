import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from config import validate
from datasets.files.folders import Names
from datasets.semantic.ade20k import ADE20KConfig
from errors import UserError
from structures import IGNORE, Prediction, Target

MakeConfig = Callable[..., ADE20KConfig]
OWN = {"classes": ["road", "car"], "first_label": 0, "ignore_labels": [255]}


def write_labels(root: Path, labels: np.ndarray, stem: str = "ADE_training_0") -> None:
    cv2.imwrite(str(root / "annotations" / "training" / f"{stem}.png"), labels)


def test_info_needs_no_data(make_config: MakeConfig) -> None:
    info = make_config(root="nowhere").info
    assert info.num_classes == len(set(info.classes)) == 150
    assert (info.task, info.classes[0], info.classes[12], info.classes[149]) == ("semantic", "wall", "person", "flag")


def test_prediction_files_need_no_data(make_config: MakeConfig, tmp_path: Path) -> None:
    files = make_config(root="nowhere").prediction_files(tmp_path)
    files.write(Prediction(semantic=torch.full((2, 3), 149, dtype=torch.int16)), Target("a", (2, 3)))
    assert np.asarray(Image.open(tmp_path / "a.png")).max() == 149  # indices into a palette


def test_images_are_sorted_by_stem_and_named_by_it(layout: Path, make_config: MakeConfig) -> None:
    dataset = make_config().build("train")
    assert [dataset.load(index).image_id for index in range(len(dataset))] == [f"ADE_training_{i}" for i in range(3)]
    assert len(make_config().build("val")) == 2


def test_official_labels_lose_one_and_zero_is_ignored(layout: Path, make_config: MakeConfig) -> None:
    dataset = make_config().build("train")
    stored = cv2.imread(str(layout / "annotations/training/ADE_training_1.png"), cv2.IMREAD_UNCHANGED)
    sample, target = dataset.load(1), dataset.target(1)
    assert sample.semantic is not None
    assert target.semantic is not None
    assert IGNORE == -1
    assert sample.semantic.dtype == np.int16
    assert np.array_equal(sample.semantic, stored.astype(int) - 1)
    assert np.array_equal(target.semantic.numpy(), sample.semantic)
    assert sample.size == target.size == stored.shape == (31, 17)
    assert target.image_id == sample.image_id


def test_target_opens_no_image(layout: Path, make_config: MakeConfig) -> None:
    dataset = make_config().build("train")
    for path in (layout / "images/training").iterdir():
        path.unlink()
    assert dataset.target(0).size == (20, 30)


def test_scoring_needs_no_image_folder(layout: Path, make_config: MakeConfig) -> None:
    expected = make_config().build("val").target(1)
    (layout / "images").rename(layout / "elsewhere")
    dataset = make_config().build("val", annotations_only=True)
    assert len(dataset) == 2
    target = dataset.target(1)
    assert (target.image_id, target.size) == (expected.image_id, expected.size)
    assert torch.equal(semantic_of(target), semantic_of(expected))


def semantic_of(target: Target) -> torch.Tensor:
    assert target.semantic is not None
    return target.semantic


def test_own_classes_from_zero_with_255_ignored(layout: Path, make_config: MakeConfig) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[3], labels[4] = 1, 255
    write_labels(layout, labels)
    semantic = make_config(**OWN).build("train").load(0).semantic
    assert semantic is not None
    assert [semantic[row, 0] for row in (2, 3, 4)] == [0, 1, IGNORE]


def test_16_bit_labels_of_many_classes(layout: Path, make_config: MakeConfig) -> None:
    write_labels(layout, np.full((20, 30), 300, np.uint16))
    semantic = make_config(classes=[f"c{i}" for i in range(400)]).build("train").load(0).semantic
    assert semantic is not None
    assert (semantic == 299).all()


def test_palette_labels(layout: Path, make_config: MakeConfig) -> None:
    picture = Image.new("P", (30, 20), 1)
    picture.putpalette([9, 9, 9, 200, 0, 0])
    picture.save(layout / "annotations/training/ADE_training_0.png")
    semantic = make_config(**OWN).build("train").load(0).semantic
    assert semantic is not None
    assert (semantic == 1).all()


def test_own_folders_and_other_files_in_them(layout: Path, make_config: MakeConfig) -> None:
    (layout / "images/training").rename(layout / "photos")
    (layout / "photos/.DS_Store").touch()
    (layout / "photos/._ADE_training_0.jpg").touch()
    (layout / "photos/notes.txt").touch()
    assert len(make_config(train_images="photos").build("train")) == 3


# --- one line for everything that can be wrong -----------------------------------------------------------------------


def remove(root: Path, path: str) -> None:
    (root / path).unlink()


def refused(build: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        build()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_root_says_what_to_download(make_config: MakeConfig, tmp_path: Path) -> None:
    message = refused(lambda: make_config(root=str(tmp_path / "ade")).build("val"))
    fetch = f"fetch ADE20K with python -m tools.prepare_ade20k --root {tmp_path}/ade"
    assert f"{tmp_path}/ade: no such folder; correct data.root, or {fetch}" in message


def test_root_one_folder_too_high_suggests_the_right_one(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "ADEChallengeData2016").mkdir()
    assert f"set data.root={tmp_path}/ADEChallengeData2016" in refused(lambda: make_config().build("val"))


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_missing_folder_names_its_key(layout: Path, make_config: MakeConfig, kind: str) -> None:
    (layout / kind / "validation").rename(layout / "elsewhere")
    message = refused(lambda: make_config().build("val"))
    assert f"{kind}/validation: no such folder" in message
    assert f"data.val_{kind}" in message


def test_folder_without_images(layout: Path, make_config: MakeConfig) -> None:
    (layout / "empty").mkdir()
    assert "empty: holds no image" in refused(lambda: make_config(train_images="empty").build("train"))


def test_folder_without_label_pngs(layout: Path, make_config: MakeConfig) -> None:
    message = refused(lambda: make_config(train_annotations="images/training").build("train"))
    assert "images/training: holds no annotation (.png)" in message
    assert "data.train_annotations" in message


def test_image_without_annotation(layout: Path, make_config: MakeConfig) -> None:
    remove(layout, "annotations/training/ADE_training_1.png")
    remove(layout, "annotations/training/ADE_training_2.png")
    message = refused(lambda: make_config().build("train"))
    assert "ADE_training_1.jpg: no annotation with this stem" in message
    assert "1 more" in message


def test_annotation_without_image(layout: Path, make_config: MakeConfig) -> None:
    remove(layout, "images/training/ADE_training_1.jpg")
    assert "ADE_training_1.png: no image with this stem" in refused(lambda: make_config().build("train"))


def test_two_images_of_one_stem(layout: Path, make_config: MakeConfig) -> None:
    cv2.imwrite(str(layout / "images/training/ADE_training_1.png"), np.zeros((4, 4, 3), np.uint8))
    assert "has the same stem as ADE_training_1.jpg" in refused(lambda: make_config().build("train"))


def test_annotation_of_another_size(layout: Path, make_config: MakeConfig) -> None:
    write_labels(layout, np.zeros((30, 20), np.uint8))
    message = refused(lambda: make_config().build("train").load(0))
    assert "ADE_training_0.png: is 20 x 30 pixels" in message
    assert "ADE_training_0.jpg is displayed at 30 x 20" in message


def test_annotation_must_fit_the_displayed_orientation(layout: Path, make_config: MakeConfig) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    path = layout / "images/training/ADE_training_0.jpg"
    Image.open(path).save(path, exif=exif)
    assert "displayed at 20 x 30" in refused(lambda: make_config().build("train").load(0))


@pytest.mark.parametrize("read", ["load", "target"])
def test_unknown_label_is_named_with_file_value_and_place(layout: Path, make_config: MakeConfig, read: str) -> None:
    labels = np.ones((20, 30), np.uint8)
    labels[7, 9] = 151
    write_labels(layout, labels)
    dataset = make_config().build("train")
    message = refused(lambda: dataset.load(0) if read == "load" else dataset.target(0))
    assert "ADE_training_0.png: value 151 at row 7, column 9 is not a class (classes: 1 to 150; ignored: 0)" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": []}, "at least 1"),
        ({"classes": ["a", "b", "a"]}, "class a appears twice"),
        ({"ignore_labels": [150]}, "ignore_labels names 150, which is class flag"),
        ({**OWN, "label_values": {7: "road"}}, "label_values has no value for class car"),
        ({**OWN, "label_values": {7: "road", 8: "cars"}}, "label_values names cars, which is not in classes"),
        ({**OWN, "label_values": {7: "road", 255: "car"}}, "ignore_labels names 255, which is class car"),
        ({**OWN, "label_values": {7: "road", 65536: "car"}}, "beyond 65535"),
        ({"label_suffix": "_mask.jpg"}, "label_suffix names .jpg files; store labels as PNG"),
        (
            {"image_range": [9, 9]},
            "is not a range; write the values of black and white, as in [0, 4095], full",
        ),
        ({"image_range": "wide"}, "is not a range"),
        ({"first_label": 65500}, "beyond 65535"),
        ({"first_lable": 0}, "did you mean first_label?"),
        ({"train_transforms": []}, "normalize is listed 0 times"),
        ({"train_transforms": ["normalize", "photometric_distortion"]}, "comes after normalize"),
        ({"test_transforms": ["random_flip", "normalize"]}, "unknown name random_flip"),
        ({"train_transforms": ["random_flop"]}, "did you mean random_flip?"),
    ],
)
def test_impossible_configurations(make_config: MakeConfig, options: dict[str, Any], message: str) -> None:
    assert message in refused(lambda: make_config(**options))


def test_transforms_have_no_default(tmp_path: Path) -> None:
    assert "test_transforms" in refused(lambda: validate(ADE20KConfig, {"root": str(tmp_path)}, "data"))


def test_names_are_kept_compactly() -> None:
    names = Names(f"straße_{index:06d}.jpg" for index in range(10_000))
    assert names[9_999] == "straße_009999.jpg"
    assert len(pickle.dumps(names)) < 10_000 * 25
