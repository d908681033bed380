"""Layouts of other data sets: subfolders, suffixes, lists of names, values with gaps, names in other Unicode forms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets.semantic.ade20k import ADE20K, ADE20KConfig
from errors import UserError
from structures import IGNORE

FOLDERS = {"train_images": "images", "train_annotations": "labels"}
OWN = {**FOLDERS, "classes": ["road", "car"], "first_label": 0, "ignore_labels": [255]}
MakeConfig = Callable[..., ADE20KConfig]


def write(root: Path, *pairs: tuple[str | None, str | None], values: tuple[int, ...] = (0, 1)) -> None:
    """Images and label maps by path. The i-th label map has i + 1 rows."""
    for rows, (image, label) in enumerate(pairs, start=1):
        labels = np.array([values] * rows, np.uint8)
        for path, pixels in ((image, np.zeros((*labels.shape, 3), np.uint8)), (label, labels)):
            if path is not None:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                encoded = cv2.imencode(Path(path).suffix.lower().replace("jfif", "jpg"), pixels)[1]
                (root / path).write_bytes(encoded.tobytes())


def read(dataset: ADE20K) -> dict[str, int]:
    """The height of each image by id; both files are read, and the label map is read alone, too."""
    samples = [dataset.load(index) for index in range(len(dataset))]
    for index, sample in enumerate(samples):
        target = dataset.target(index)
        assert (target.image_id, target.size) == (sample.image_id, sample.size)
    return {sample.image_id: sample.size[0] for sample in samples}


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("image", "label"),
    [("a.JPG", "a.PNG"), ("a.jfif", "a.Png"), ("u\u0308.jpg", "\u00fc.png"), ("\u00fc.jpg", "u\u0308.png")],
)
def test_files_are_opened_by_the_names_that_their_folders_list(
    tmp_path: Path, make_config: MakeConfig, image: str, label: str
) -> None:
    write(tmp_path, (f"images/{image}", f"labels/{label}"))
    expected = {image.partition(".")[0].replace("u\u0308", "\u00fc"): 1}
    assert read(make_config(**OWN).build("train")) == expected
    assert make_config(**OWN).build("train", annotations_only=True).image_id(0) == next(iter(expected))


def test_names_that_differ_only_in_their_unicode_form_are_refused(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/u\u0308.jpg", "labels/\u00fc.png"), ("images/\u00fc.jpg", None))
    assert "has the same stem as" in refused(lambda: make_config(**OWN).build("train"))


def test_subfolders_are_searched(tmp_path: Path, make_config: MakeConfig) -> None:
    write(
        tmp_path,
        ("images/ulm/a.jpg", "labels/ulm/a.png"),
        ("images/bonn/x/a.jpg", "labels/bonn/x/a.png"),
        (None, "labels/.hidden/b.png"),
    )
    assert read(make_config(**OWN).build("train")) == {"bonn_x_a": 2, "ulm_a": 1}


def test_subfolders_beside_files_are_left_out(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a.png"), ("images/small/a.jpg", None), (None, "labels/shown/a.png"))
    assert read(make_config(**OWN).build("train")) == {"a": 1}


def test_two_files_of_one_id_are_refused(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/ulm/x/a.jpg", "labels/a.png"), ("images/ulm_x/a.jpg", None))
    message = refused(lambda: make_config(**OWN).build("train"))
    assert "has the same name, ulm_x_a, as" in message


def test_a_link_in_a_circle_ends(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/ulm/a.jpg", "labels/ulm/a.png"))
    (tmp_path / "images/ulm/again").symlink_to(tmp_path / "images")
    assert read(make_config(**OWN).build("train")) == {"ulm_a": 1}


@pytest.mark.parametrize("suffix", ["_mask", "_mask.png"])
def test_labels_with_a_suffix(tmp_path: Path, make_config: MakeConfig, suffix: str) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a_mask.png"), (None, "labels/a_colour.png"))
    assert read(make_config(**OWN, label_suffix=suffix).build("train")) == {"a": 1}


def test_a_missing_suffix_is_advised(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a_mask.png"))
    assert "set data.label_suffix=_mask.png, or" in refused(lambda: make_config(**OWN).build("train"))


def test_a_wrong_suffix_is_named(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a.png"))
    message = refused(lambda: make_config(**OWN, label_suffix="_mask").build("train"))
    assert "labels: holds no annotation (_mask.png)" in message


def test_cityscapes(tmp_path: Path, make_config: MakeConfig) -> None:
    for city in ("aachen", "ulm"):
        folders, name = (f"leftImg8bit/train/{city}", f"gtFine/train/{city}"), f"{city}_000000_000019"
        image, label = f"{folders[0]}/{name}_leftImg8bit.png", f"{folders[1]}/{name}_gtFine_labelIds.png"
        write(tmp_path, (image, label), (None, f"{folders[1]}/{name}_gtFine_color.png"), values=(7, 26, 0))
    dataset = make_config(
        classes=["road", "car"],
        train_images="leftImg8bit/train",
        train_annotations="gtFine/train",
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelIds.png",
        label_values={7: "road", 26: "car"},
    ).build("train")
    assert read(dataset) == {"aachen_aachen_000000_000019": 1, "ulm_ulm_000000_000019": 1}
    semantic = dataset.load(0).semantic
    assert semantic is not None
    assert semantic.tolist() == [[0, 1, IGNORE]]


def test_several_values_of_one_class(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a.png"), values=(26, 7, 27))
    values = {7: "road", 26: "car", 27: "car"}
    semantic = make_config(**OWN, label_values=values).build("train").load(0).semantic
    assert semantic is not None
    assert semantic.tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("text", ["b\na\n", "\n\na.jpg\r\nb.jpg", "\ufeffb\n\na"])
def test_voc_names_its_images_in_a_list(tmp_path: Path, make_config: MakeConfig, text: str) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a.png"), ("images/b.jpg", "labels/b.png"), ("images/c.jpg", None))
    (tmp_path / "train.txt").write_text(text, newline="")
    config = make_config(**OWN, train_list="train.txt")
    assert read(config.build("train")) == {"a": 1, "b": 2}
    assert len(config.build("train", annotations_only=True)) == 2


def test_a_list_may_name_folders_and_suffixes(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/ulm/a_left.jpg", "labels/ulm/a_mask.png"))
    for line in ("ulm/a_left.jpg", "ulm/a", "ulm_a"):
        (tmp_path / "train.txt").write_text(line)
        config = make_config(**OWN, train_list="train.txt", image_suffix="_left", label_suffix="_mask")
        assert read(config.build("train")) == {"ulm_a": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n\nd\nc", r"train.txt line 3: names d, but .*labels has no such annotation (and 1 more are missing)"),
        ("a\na.jpg", "train.txt line 2: names a.jpg, as line 1 does; list every image once"),
        ("a\ne", "train.txt line 2: names e, but .*images has no such image"),
        ("\n", "train.txt: names no image"),
    ],
)
def test_wrong_lists_are_named_with_their_line(
    tmp_path: Path, make_config: MakeConfig, text: str, expected: str
) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a.png"), ("images/c.jpg", None), (None, "labels/e.png"))
    (tmp_path / "train.txt").write_text(text)
    message = refused(lambda: make_config(**OWN, train_list="train.txt").build("train"))
    assert all(part in message for part in expected.split(".*"))


def test_unlabelled_images_are_refused_with_advice(tmp_path: Path, make_config: MakeConfig) -> None:
    write(tmp_path, ("images/a.jpg", "labels/a.png"), ("images/c.jpg", None))
    message = refused(lambda: make_config(**OWN).build("train"))
    assert "images/c.jpg: no annotation with this stem" in message
    assert "or name the images to use in a file, data.train_list" in message
