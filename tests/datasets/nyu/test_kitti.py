"""KITTI in its official form, made small: files of varying sizes, 16-bit depth in 1/256 m, lists with `None`."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from config import validate
from datasets.nyu.dataset import NYUConfig
from datasets.nyu.depth_maps import kb_window
from errors import UserError
from experiment import load_experiment
from metrics.depth_errors import crop_window
from tests.conftest import ROOT

SIZES = [(375, 1242), (370, 1224), (376, 1241)]  # three of KITTI's
RAW = "2011_09_26/2011_09_26_drive_{:04}_sync/image_02/data/0000000069.png"
DEPTH = "2011_09_26_drive_{:04}_sync/proj_depth/groundtruth/image_02/0000000069.png"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs; pixel (y, x) of an image is (y mod 256, x mod 256, 0), of a depth map 20 y + x, where measured."""
    root = tmp_path_factory.mktemp("data") / "kitti"
    lines = []
    for number, (height, width) in enumerate(SIZES):
        y, x = np.indices((height, width))
        depth = np.where((y + x) % 3 == 0, 20 * y + x, 0).astype(np.uint16)
        bgr = np.stack([y * 0, x % 256, y % 256], axis=-1).astype(np.uint8)
        for name, values in ((RAW.format(number), bgr), (DEPTH.format(number), depth)):
            (root / name).parent.mkdir(parents=True)
            cv2.imwrite(str(root / name), values, [cv2.IMWRITE_PNG_COMPRESSION, 0])
        lines.append(f"{RAW.format(number)} {DEPTH.format(number)} 721.5377")
    (root / "kitti_eigen_train.txt").write_text("\n".join(lines))
    (root / "kitti_eigen_test.txt").write_text("\n".join([*lines[1:], f"{RAW.format(7)} None 721.5377"]))
    return root


def config(root: Path, **options: Any) -> NYUConfig:
    data = load_experiment(ROOT / "configs/depth_kitti_dysample.yaml").data.model_dump(mode="json")
    return validate(NYUConfig, data | {"root": str(root)} | options, "data")


@pytest.mark.parametrize("index", range(3))
def test_images_of_varying_sizes_are_cut_at_the_top_and_on_both_sides(root: Path, index: int) -> None:
    height, width = SIZES[index]
    dataset = config(root).build("train")
    sample, target = dataset.load(index), dataset.target(index)
    top, left = height - 352, int((width - 1216) / 2)
    y, x = np.mgrid[top : top + 352, left : left + 1216]
    assert sample.image.shape == (352, 1216, 3)
    assert np.array_equal(sample.image[..., 0], y % 256)
    assert np.array_equal(sample.image[..., 1], x % 256)
    true = np.where((y + x) % 3 == 0, (20 * y + x) / 256, 0).astype(np.float32)
    assert sample.depth is not None
    assert np.array_equal(sample.depth, true)
    assert target.depth is not None
    assert target.size == sample.size == (352, 1216)
    assert np.array_equal(target.depth.numpy(), true)


def test_images_without_improved_depth_are_left_out_and_named(root: Path) -> None:
    dataset = config(root).build("val")
    assert len(dataset) == 2
    assert dataset.skipped == [f"{root}/kitti_eigen_test.txt line 3: {RAW.format(7)} has no depth"]
    assert dataset.image_id(0) == "2011_09_26_2011_09_26_drive_0001_sync_image_02_data_0000000069"
    assert dataset.protocol["val_data"].startswith("own list kitti_eigen_test.txt, 2 pairs, sha256")
    assert dataset.protocol["image_crop"].startswith("kb: ")


def test_depth_is_in_units_of_a_256th_of_a_metre_up_to_80_m(root: Path, tmp_path: Path) -> None:
    settings = config(root)
    assert (settings.info.name, settings.info.max_depth) == ("kitti", 80)
    survey = settings.build("val").survey()
    assert survey.counts["depth"] > 0
    assert not survey.warnings


def test_without_the_crop_whole_images_are_used(root: Path) -> None:
    assert config(root, kb_crop=False).build("train").load(1).size == SIZES[1]


@pytest.mark.parametrize("size", [(351, 1242), (375, 1215)])
def test_smaller_images_are_refused_in_one_line(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"a\.png: is .*KITTI's crop takes 1216 x 352; set data\.kb_crop=false"):
        kb_window(Path("a.png"), size)


def test_gargs_crop_of_cut_images_is_rows_143_to_348_and_columns_43_to_1171() -> None:
    assert crop_window("garg", (352, 1216)) == (slice(143, 349), slice(43, 1172))


def test_missing_data_say_where_kitti_is_described(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"get KITTI as docs/depth\.md says"):
        config(tmp_path / "none").build("val")
    with pytest.raises(UserError, match=r"put eigen_test_files_with_gt\.txt of https://github\.com/cleinc/bts"):
        config(tmp_path).build("val")
