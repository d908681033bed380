"""`on_error: skip`: files and lines that cannot be paired are left out and listed, whatever the data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from config import validate
from datasets.base import DenseDataset
from datasets.nyu.dataset import NYUConfig
from datasets.semantic.ade20k import ADE20KConfig
from errors import UserError

TRANSFORMS = {"train_transforms": ["normalize"], "test_transforms": ["normalize"]}
SEMANTIC = {"classes": ["road", "car"], "train_images": "images", "train_annotations": "labels", "first_label": 0}
Build = Callable[..., DenseDataset]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images, a to d, a label map and a depth map of each."""
    for index, stem in enumerate("abcd"):
        write(tmp_path / f"images/{stem}.jpg", np.zeros((8, 9, 3), np.uint8))
        write(tmp_path / f"labels/{stem}.png", np.full((8, 9), index % 2, np.uint8))
        write(tmp_path / f"depth/{stem}.png", np.full((8, 9), 900, np.uint16))
    return tmp_path


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def semantic(root: Path, **options: Any) -> DenseDataset:
    values = {"root": str(root), **SEMANTIC, "ignore_labels": [255], **TRANSFORMS, **options}
    return validate(ADE20KConfig, values, "data").build("train")


def depth_folders(root: Path, **options: Any) -> DenseDataset:
    folders = {"train_images": "images", "train_depths": "depth"}
    return validate(NYUConfig, {"root": str(root), **folders, **TRANSFORMS, **options}, "data").build("train")


def depth_list(root: Path, **options: Any) -> DenseDataset:
    values = {"root": str(root), "train_list": "list.txt", **TRANSFORMS, **options}
    return validate(NYUConfig, values, "data").build("train")


def ids(dataset: DenseDataset) -> list[str]:
    return [dataset.image_id(index) for index in range(len(dataset))]


@pytest.mark.parametrize(("build", "folder"), [(semantic, "labels"), (depth_folders, "depth")])
def test_files_without_counterpart(root: Path, build: Build, folder: str) -> None:
    (root / folder / "b.png").unlink()
    (root / "images/c.jpg").unlink()
    with pytest.raises(UserError, match=r"b\.jpg: no .* with this stem .*data\.on_error=skip"):
        build(root)
    dataset = build(root, on_error="skip")
    assert ids(dataset) == ["a", "d"]
    assert [error.args[0] for error in dataset.unusable] == [f"{root}/images/b.jpg", f"{root}/{folder}/c.png"]
    assert dataset.skipped[0].startswith(f"{root}/images/b.jpg: no ")


@pytest.mark.parametrize("build", [semantic, depth_folders])
def test_of_files_with_one_stem_the_first_stays(root: Path, build: Build) -> None:
    write(root / "images/a.png", np.zeros((8, 9, 3), np.uint8))
    dataset = build(root, on_error="skip")
    assert ids(dataset) == ["a", "b", "c", "d"]
    assert dataset.skipped == [f"{root}/images/a.png: has the same stem as a.jpg"]


def test_lines_of_a_list_of_names(root: Path) -> None:
    (root / "list.txt").write_text("a\nb\na\nz\n")
    dataset = semantic(root, train_list="list.txt", on_error="skip")
    assert ids(dataset) == ["a", "b"]
    lines = [line.partition("list.txt ")[2].partition(":")[0] for line in dataset.skipped]
    assert lines == ["line 3", "line 4", "line 4"]  # z has neither a label map nor an image


def test_lines_of_a_list_of_pairs(root: Path) -> None:
    pair = "images/{0}.jpg depth/{0}.png"
    lines = [pair.format("a"), pair.format("z"), "nonsense", pair.format("a"), "/../x.jpg y.png", "images/b.jpg None"]
    (root / "list.txt").write_text("\n".join([*lines, pair.format("d")]))
    with pytest.raises(UserError, match="line 3"):
        depth_list(root)
    dataset = depth_list(root, on_error="skip")
    assert ids(dataset) == ["images_a", "images_d"]
    numbers = [int(error.args[0].rpartition(" ")[2]) for error in dataset.unusable]
    assert numbers == [3, 4, 5, 2, 2]  # an image and a depth map of line 2 are missing
    assert [error.brief for _, error in dataset.doubts()] == [f"{root}/list.txt line 6: images/b.jpg has no depth"]
    assert len(dataset.skipped) == 6


@pytest.mark.parametrize(("build", "folder"), [(semantic, "labels"), (depth_folders, "depth")])
def test_nothing_usable_is_an_error(root: Path, build: Build, folder: str) -> None:
    for stem in "abcd":
        (root / folder / f"{stem}.png").rename(root / folder / f"{stem}_x.png")
    with pytest.raises(UserError, match="no image has a"):
        build(root, on_error="skip")


def test_files_that_nothing_names(root: Path) -> None:
    write(root / "images/more/e.jpg", np.zeros((8, 9, 3), np.uint8))
    dataset = semantic(root)
    assert dataset.unnamed_files() == {root / "images": [root / "images/more/e.jpg"], root / "labels": []}
    (root / "list.txt").write_text("a\nb\n")
    assert semantic(root, train_list="list.txt").unnamed_files() == {}


@pytest.mark.parametrize("build", [semantic, depth_folders])
def test_a_survey_of_some_images_reads_no_others(root: Path, build: Build) -> None:
    dataset = build(root)
    for index in (0, 3):
        for path in dataset.files(index):
            path.write_bytes(b"")
    assert sum(dataset.survey([1, 2]).counts.values()) == 2 * 8 * 9
    with pytest.raises(UserError, match="the file is empty"):
        dataset.survey()
