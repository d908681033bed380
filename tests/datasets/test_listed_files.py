"""What JSON files say about image files: names in another form than the folder lists, pictures of 16 bits."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets.base import DenseDataset
from tests.datasets.coco import coco_layout
from tests.datasets.panoptic import panoptic_layout

LAYOUTS: list[Any] = [coco_layout, panoptic_layout]
NAMES = [("img.JPG", "img.jpg"), ("u\u0308.jpg", "\u00fc.jpg"), ("stra\u00dfe\u0308/a.JPG", "stra\u00df\u00eb/a.jpg")]
IMAGE = 9


def rename(root: Path, layout: Any, on_disk: str, listed: str) -> None:
    """Give the image this name on disk, and that name in the file."""
    path = root / "train2017" / on_disk
    path.parent.mkdir(exist_ok=True)
    (root / f"train2017/{IMAGE:012d}.jpg").rename(path)
    content = layout.stored(root)
    next(item for item in content["images"] if item["id"] == IMAGE)["file_name"] = listed
    layout.store(root, content)


def place(dataset: DenseDataset) -> int:
    return [dataset.image_id(index) for index in range(len(dataset))].index(str(IMAGE))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("on_disk", "listed"), NAMES)
def test_images_are_opened_by_the_name_that_their_folder_lists(
    tmp_path: Path, layout: Any, on_disk: str, listed: str
) -> None:
    layout.write_layout(tmp_path)
    rename(tmp_path, layout, on_disk, listed)
    dataset = layout.config(tmp_path).build("train")
    assert dataset.load(place(dataset)).size == layout.SIZES[IMAGE]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_name_that_may_be_two_files_is_refused(tmp_path: Path, layout: Any) -> None:
    layout.write_layout(tmp_path)
    rename(tmp_path, layout, "img.JPG", "img.jpg")
    (tmp_path / "train2017/img.Jpg").touch()
    message = coco_layout.refused(lambda: layout.config(tmp_path).build("train"))
    assert "image 9: img.jpg may be img.JPG or img.Jpg" in message


def test_panoptic_pngs_are_opened_by_the_name_that_their_folder_lists(tmp_path: Path) -> None:
    panoptic_layout.write_layout(tmp_path)
    folder = tmp_path / panoptic_layout.TRAIN.removesuffix(".json")
    (folder / f"{IMAGE:012d}.png").rename(folder / "u\u0308.PNG")
    content = panoptic_layout.stored(tmp_path)
    panoptic_layout.annotation(content, IMAGE)["file_name"] = "\u00fc.png"
    panoptic_layout.store(tmp_path, content)
    dataset = panoptic_layout.config(tmp_path).build("train")
    assert dataset.target(place(dataset)).size == panoptic_layout.SIZES[IMAGE]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_of_few_grey_levels_stop_before_the_start(tmp_path: Path, layout: Any) -> None:
    layout.write_layout(tmp_path)
    rng = np.random.default_rng(0)
    for path in (tmp_path / "train2017").iterdir():
        height, width = cv2.imread(str(path)).shape[:2]
        values = rng.integers(7200, 8701, (height, width)).astype(np.uint16)
        path.write_bytes(cv2.imencode(".png", values)[1].tobytes())
    assert "set 'data.image_range=[72" in coco_layout.refused(layout.config(tmp_path).build("train").survey)
    dataset = layout.config(tmp_path, image_range=[7200, 8700]).build("train")
    dataset.survey()
    assert len(np.unique(dataset.load(0).image)) > 200
