"""NYU Depth V2 (Silberman et al., ECCV 2012) as DepthFormer uses it, and any RGB images with 16-bit depth maps.

Official data: two lists of image and depth files (see `lists.py`), 24,231 pairs for training, 654 for evaluation. Own
data: such lists, or a folder of images and a folder of depth maps with the same stems.
"""

import os
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import PositiveFloat, model_validator

from config import Schema
from datasets.base import DenseDataset, Sample, Survey
from datasets.files.folders import Names, list_by_stem
from datasets.files.images import IMAGE_SUFFIXES, read_image
from datasets.files.paths import problem_with
from datasets.nyu.depth_maps import read_depth
from datasets.nyu.lists import SOURCE, check_files_exist, describe_list, image_id, read_list
from datasets.nyu.predictions import DepthFiles
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import DatasetInfo, Target

Split = Literal["train", "val"]
LISTS = {"train": "nyu_train.txt", "val": "nyu_test.txt"}
BTS_NAMES = {"train": "nyudepthv2_train_files_with_gt.txt", "val": "nyudepthv2_test_files_with_gt.txt"}


class NYUConfig(Schema):
    """root: the folder with the lists and the folders in them; the other paths are relative to it, or absolute.

    train_list, val_list: lists of pairs; None: the official nyu_train.txt, nyu_test.txt, unless the split has folders.
    train_images and train_depths, val_images and val_depths: instead of a list, a folder of images and a folder of
    depth maps, paired by stem. depth_scale: units of the depth files per metre; 1000: millimetres.
    min_depth, max_depth: metres; pixels nearer or farther count as not measured, in training and evaluation.
    """

    name: Literal["nyu"] = "nyu"
    root: Path
    train_list: str | None = None
    val_list: str | None = None
    train_images: str | None = None
    train_depths: str | None = None
    val_images: str | None = None
    val_depths: str | None = None
    depth_scale: PositiveFloat = 1000
    min_depth: PositiveFloat = 0.001
    max_depth: PositiveFloat = 10
    train_transforms: TrainTransforms
    test_transforms: TestTransforms

    @model_validator(mode="after")
    def _check_paths_and_range(self) -> Self:
        for split in LISTS:
            file, images, depths = self._paths(split)
            if (images is None) != (depths is None):
                missing = f"{split}_images" if images is None else f"{split}_depths"
                raise ValueError(f"{missing} is missing; name both folders of the split, or a {split}_list")
            if file is not None and images is not None:
                raise ValueError(f"{split}_list and {split}_images are both set; set one of them to null")
        if self.min_depth >= self.max_depth:
            raise ValueError(f"min_depth {self.min_depth:g} is not below max_depth {self.max_depth:g}; change one")
        return self

    def _paths(self, split: str) -> tuple[str | None, str | None, str | None]:
        """The list, the folder of images and the folder of depth maps of a split, as set."""
        if split == "train":
            return self.train_list, self.train_images, self.train_depths
        return self.val_list, self.val_images, self.val_depths

    @property
    def info(self) -> DatasetInfo:
        """The task and the largest depth; needs no data on disk."""
        return DatasetInfo(task="depth", name=self.name, max_depth=self.max_depth)

    def build(self, split: Split, annotations_only: bool = False) -> "NYU":
        """The dataset of one split. Raises UserError if any of its files is missing.

        annotations_only: for scoring without images on disk; then `target` works, `load` does not.
        """
        return NYU(self, split, annotations_only)

    def prediction_files(self, folder: Path) -> DepthFiles:
        """Depth PNGs in `folder`; needs no data on disk. Raises UserError if max_depth is too large for them."""
        return DepthFiles(folder, self.max_depth)

    def describe(self, split: Split) -> str:
        """A description of the split for results: a published list, an own list, or own folders."""
        file, images, depths = self._paths(split)
        if images is not None:
            return f"own folders {images} and {depths}"
        return describe_list(self.root.expanduser() / (file or LISTS[split]))


class NYU(DenseDataset):
    """Images and depth maps in the order of their list, or sorted by stem if they come from folders.

    An image's id is its path under the root without suffix, `/` written as `_`; with own folders it is the stem.
    The constructor reads the list or the folders; it raises UserError if something is malformed or missing.
    protocol: which pairs the two splits consist of, as found on disk.
    """

    def __init__(self, config: NYUConfig, split: Split, annotations_only: bool = False) -> None:
        self.info = config.info
        self._config = config
        root = _existing_root(config.root.expanduser(), split)
        file, images, depths = config._paths(split)
        if images is not None and depths is not None:
            self._images, self._depths = root / Path(images).expanduser(), root / Path(depths).expanduser()
            pairs = _pair_files(self._images, self._depths, split, annotations_only)
        else:
            self._images = self._depths = root
            pairs, self.skipped = _read_pairs(root, file, split, annotations_only)
        self._image_names = Names(image for image, _ in pairs)
        self._depth_names = Names(depth for _, depth in pairs)
        self.protocol = {"train_data": config.describe("train"), "val_data": config.describe("val")}

    def __len__(self) -> int:
        return len(self._image_names)

    def image_id(self, index: int) -> str:
        """The id of the image."""
        return image_id(self._image_names[index])

    def survey(self) -> Survey:
        """Count the pixels of each class."""
        return Survey("pixels", {})

    def load(self, index: int) -> Sample:
        """The image and its depth. Raises UserError if one of them is unusable or their sizes differ."""
        path = self._images / self._image_names[index]
        image, depth = read_image(path), self._depth(index)
        if depth.shape != image.shape[:2]:
            (h, w), (height, width) = depth.shape, image.shape[:2]
            what = f"is {w} x {h} pixels (width x height) but {path} is displayed at {width} x {height}"
            raise UserError(self._depth_path(index), what, "give the depth map the size and orientation of its image")
        return Sample(self.image_id(index), image.shape[:2], image, depth=depth)

    def target(self, index: int) -> Target:
        """The depth at original size; reads no image."""
        depth = self._depth(index)
        height, width = depth.shape
        return Target(self.image_id(index), (height, width), depth=torch.from_numpy(depth))

    def _depth_path(self, index: int) -> Path:
        return self._depths / self._depth_names[index]

    def _depth(self, index: int) -> np.ndarray:
        config = self._config
        depth = read_depth(self._depth_path(index), config.depth_scale, config.max_depth)
        depth[(depth < config.min_depth) | (depth > config.max_depth)] = 0
        return depth


def _read_pairs(
    root: Path, file: str | None, split: Split, depths_only: bool
) -> tuple[list[tuple[str, str]], list[str]]:
    """The images and depth maps of a list, and one line of text for each image without depth."""
    path = root / Path(file or LISTS[split]).expanduser()
    do = f"name a list in data.{split}_list"
    if file is None:
        do = f"put {BTS_NAMES[split]} of {SOURCE} there under this name, or {do}; see docs/depth.md"
    pairs, skipped = read_list(path, do)
    check_files_exist(path, root, pairs, with_images=not depths_only)
    return [(pair.image, pair.depth) for pair in pairs], skipped


def _pair_files(images: Path, depths: Path, split: Split, depths_only: bool) -> list[tuple[str, str]]:
    """Pairs of files with equal stems. depths_only: do not look for images, but name them like their depth maps."""
    depth_names = _list_files(depths, {".png"}, f"data.{split}_depths")
    if depths_only:
        return [(name, name) for _, name in sorted(depth_names.items())]
    image_names = _list_files(images, IMAGE_SUFFIXES, f"data.{split}_images")
    unpaired = [images / image_names[stem] for stem in sorted(image_names.keys() - depth_names.keys())]
    unpaired += [depths / depth_names[stem] for stem in sorted(depth_names.keys() - image_names.keys())]
    if unpaired:
        more = f" (the same holds for {len(unpaired) - 1} more files)" if len(unpaired) > 1 else ""
        what = f"no file with this stem in {depths if unpaired[0].parent == images else images}{more}"
        raise UserError(unpaired[0], what, "add its counterpart or remove it")
    return [(image_names[stem], depth_names[stem]) for stem in sorted(image_names)]


def _list_files(folder: Path, suffixes: set[str] | frozenset[str], key: str) -> dict[str, str]:
    if problem := problem_with(folder, "folder"):
        raise UserError(folder, problem, f"correct {key} or data.root")
    names = list_by_stem(folder, suffixes)
    if not names:
        raise UserError(folder, f"holds no {' '.join(sorted(suffixes))} file", f"correct {key} or data.root")
    return names


def _existing_root(root: Path, split: Split) -> Path:
    inner = root / "nyu"
    # Unlike Path's methods, these do not raise an error if a folder may not be entered.
    if os.path.isfile(inner / LISTS[split]) and not os.path.exists(root / LISTS[split]):
        raise UserError(root, "is one folder too high", f"set data.root={inner}")
    if problem := problem_with(root, "folder"):
        raise UserError(root, problem, "set data.root to the folder with the lists; see docs/depth.md")
    return root
