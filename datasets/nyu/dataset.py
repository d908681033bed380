"""NYU Depth V2 (Silberman et al., ECCV 2012), KITTI (Geiger et al., IJRR 2013), and any RGB images with depth maps.

Official data: two lists of image and depth files (see `lists.py`), as DepthFormer uses them. NYU: 24,231 pairs for
training, 654 for evaluation. KITTI: the split of Eigen et al. (NeurIPS 2014), 697 images for evaluation, of which 652
have the denser depths of Uhrig et al. (3DV 2017). Own data: such lists, or a folder of images and a folder of depth
maps with the same stems.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import PositiveFloat, model_validator

from config import Schema
from datasets.base import DenseDataset, Doubt, ImageRange, Sample, Survey
from datasets.files.folders import Names, evenly_spread, list_files, other_files
from datasets.files.images import IMAGE_SUFFIXES, check_image_range, read_image
from datasets.files.paths import check_root, problem_with, resolve_path
from datasets.files.unusable import OnError, Unusable
from datasets.nyu.depth_maps import KB_CROP, kb_window, read_depth_values, resize_depth
from datasets.nyu.lists import BTS_NAMES, LISTS, SOURCE, describe_list, find_pairs, image_id, read_list
from datasets.nyu.predictions import DepthFiles
from datasets.nyu.scale import DepthCount
from datasets.transforms import TestTransforms, TrainTransforms
from errors import UserError
from structures import DatasetInfo, Size, Target

Split = Literal["train", "val"]
SURVEYED_MAPS, SURVEYED_IMAGES = 64, 16  # read at most so many before the start, evenly spread
DEPTH_SUFFIXES = frozenset({".png"})


class NYUConfig(Schema):
    """root: the folder with the lists and the folders in them; the other paths are relative to it, or absolute.

    name: nyu, also for data of your own; kitti: other official lists.
    train_list, val_list: lists of pairs; None: the official ones, such as nyu_train.txt, unless the split has folders.
    train_images and train_depths, val_images and val_depths: instead of a list, a folder of images and a folder of
    depth maps, paired by their paths without suffix; subfolders are searched if it holds no files itself.
    depth_scale: units of the depth files per metre; 1000: millimetres. min_depth, max_depth: metres; pixels nearer or
    farther count as not measured, in training and evaluation.
    resize_depth: give depth maps of another size than their image its size, by the nearest pixel, in training and
    evaluation; False: they are errors. With it, tools.score needs the images. kb_crop: of every image and depth map use
    only KITTI's 352 rows and 1216 columns (see `kb_window`), in training and evaluation; larger files may differ in
    size. on_error: what to do with a line or file that cannot be paired: "stop" with an error, or "skip" and list it.
    image_range: see `ImageRange`.
    """

    name: Literal["nyu", "kitti"] = "nyu"
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
    resize_depth: bool = False
    kb_crop: bool = False
    on_error: OnError = "stop"
    image_range: ImageRange = None
    train_transforms: TrainTransforms
    test_transforms: TestTransforms

    @model_validator(mode="after")
    def _check_paths_and_range(self) -> Self:
        for split in ("train", "val"):
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

        annotations_only: for scoring without images on disk; then `target` works, `load` does not. With resize_depth it
        has no effect, since the images' sizes are needed.
        """
        return NYU(self, split, annotations_only and not self.resize_depth)

    def prediction_files(self, folder: Path) -> DepthFiles:
        """Depth PNGs in `folder`; needs no data on disk."""
        return DepthFiles(folder, self.max_depth)

    def describe(self, split: Split) -> str:
        """A description of the split for results: a published list, an own list, or own folders."""
        file, images, depths = self._paths(split)
        if images is not None:
            return f"own folders {images} and {depths}"
        return describe_list(self.root.expanduser() / (file or LISTS[self.name][split]))


class NYU(DenseDataset):
    """Images and depth maps in the order of their list, or sorted by stem if they come from folders.

    An image's id is its path without suffix, `/` written as `_`: under the root, or under its own folder.
    The constructor reads the list or the folders. A line that is malformed or repeats an image is unusable, and so is a
    pair of which a file is missing.
    protocol: which pairs the two splits consist of, as found on disk.
    """

    def __init__(self, config: NYUConfig, split: Split, annotations_only: bool = False) -> None:
        self.info = config.info
        self._config = config
        root = _existing_root(config, split)
        file, images, depths = config._paths(split)
        unusable = Unusable(config.on_error)
        self._without_depth: list[UserError] = []
        if images is not None and depths is not None:
            self._images, self._depths = resolve_path(root, images), resolve_path(root, depths)
            pairs = _pair_files(self._images, self._depths, split, annotations_only, unusable)
        else:
            self._images = self._depths = root
            pairs, self._without_depth = _read_pairs(config.name, root, file, split, annotations_only, unusable)
        self._has_list = images is None
        self.unusable = unusable.errors
        self._image_names = Names(image for image, _ in pairs)
        self._depth_names = Names(depth for _, depth in pairs)
        self._has_images = not annotations_only
        self.protocol = {"train_data": config.describe("train"), "val_data": config.describe("val")}
        if config.kb_crop:
            self.protocol["image_crop"] = KB_CROP

    def __len__(self) -> int:
        return len(self._image_names)

    def image_id(self, index: int) -> str:
        """The id of the image."""
        return image_id(self._image_names[index])

    @property
    def skipped(self) -> list[str]:
        """One line for everything that is left out; also for each image that the list gives no depth."""
        return [error.brief for error in (*self._without_depth, *self.unusable)]

    def files(self, index: int) -> tuple[Path, ...]:
        """The image and its depth map."""
        return self._images / self._image_names[index], self._depth_path(index)

    def doubts(self) -> list[Doubt]:
        """The images that the list gives no depth."""
        return [Doubt(None, error) for error in self._without_depth]

    def unnamed_files(self) -> dict[Path, list[Path]]:
        """Images and depth maps without counterpart, and those in subfolders that are not searched."""
        if self._has_list:
            return {}
        return {
            self._images: other_files(self._images, IMAGE_SUFFIXES, self._image_names),
            self._depths: other_files(self._depths, DEPTH_SUFFIXES, self._depth_names),
        }

    def survey(self, images: Sequence[int] | None = None) -> Survey:
        """Count measured pixels and judge the scale, in a sample of large sets; also look at a few images' values.

        Raises UserError if no pixel has a depth between min_depth and max_depth, if the files seem to have their bytes
        swapped, or if a file of the sample is unusable.
        """
        config, looked_at = self._config, range(len(self)) if images is None else images
        count = DepthCount(config.depth_scale, config.min_depth, config.max_depth)
        sample = evenly_spread(len(self), SURVEYED_MAPS) if images is None else images
        for index in sample:
            count.add(self._depth_path(index), self._values(index))
        for index in looked_at if not count.measured and len(sample) < len(looked_at) else ():
            count.add(self._depth_path(index), self._values(index))
        warnings = count.warnings()
        count.check_measured()
        if self._has_images:
            few = evenly_spread(len(looked_at), SURVEYED_IMAGES)
            paths = [self._images / self._image_names[looked_at[row]] for row in few]
            check_image_range(paths, config.image_range)
        return Survey(
            "pixels with depth",
            {"depth": count.measured},
            {
                "without measurement": count.none,
                f"nearer than {config.min_depth:g} m": count.near,
                f"farther than {config.max_depth:g} m": count.far,
            },
            warnings,
            f"{count.maps} of {len(self)} depth maps" if count.maps < len(self) else "",
        )

    def load(self, index: int) -> Sample:
        """The image and its depth. Raises UserError if one of them is unusable or their sizes differ."""
        image = self._image(index)
        depth = self._depth(index, image.shape[:2])
        if self._config.kb_crop:
            image = image[kb_window(self.files(index)[0], image.shape[:2])]
        return Sample(self.image_id(index), image.shape[:2], image, depth=depth)

    def target(self, index: int) -> Target:
        """The depth at original size; reads no image, unless depth is resized to it."""
        depth = self._depth(index, self._image(index).shape[:2] if self._config.resize_depth else None)
        height, width = depth.shape
        return Target(self.image_id(index), (height, width), depth=torch.from_numpy(depth))

    def _depth_path(self, index: int) -> Path:
        return self._depths / self._depth_names[index]

    def _image(self, index: int) -> np.ndarray:
        return read_image(self._images / self._image_names[index], self._config.image_range or "full")

    def _values(self, index: int) -> np.ndarray:
        return read_depth_values(self._depth_path(index))

    def _depth(self, index: int, size: Size | None) -> np.ndarray:
        """Depth in metres [H, W] float32, 0 where it was not measured. size: that of the image; None: do not check."""
        config, path = self._config, self._depth_path(index)
        depth = self._values(index).astype(np.float32) / np.float32(config.depth_scale)
        depth[(depth < config.min_depth) | (depth > config.max_depth)] = 0
        if size is not None and depth.shape != size:
            if not config.resize_depth:
                (h, w), (height, width) = depth.shape, size
                what = (
                    f"is {w} x {h} pixels (width x height) but its image, {self._image_names[index]}, is displayed at"
                )
                do = "give it the size and orientation of its image, or set data.resize_depth=true"
                raise UserError(path, f"{what} {width} x {height}", do)
            depth = resize_depth(path, depth, size)
        return depth[kb_window(path, depth.shape)] if config.kb_crop else depth


def _read_pairs(
    name: str, root: Path, file: str | None, split: Split, depths_only: bool, unusable: Unusable
) -> tuple[list[tuple[str, str]], list[UserError]]:
    """The images and depth maps of a list, and what to say of each image without depth."""
    path = resolve_path(root, file or LISTS[name][split])
    do = f"name a list in data.{split}_list"
    if file is None:
        do = f"put {BTS_NAMES[name][split]} of {SOURCE} there under this name, or {do}; see docs/depth.md"
    pairs, without_depth = read_list(path, do, unusable)
    pairs = find_pairs(path, root, pairs, not depths_only, unusable)
    return [(pair.image, pair.depth) for pair in pairs], without_depth


def _pair_files(
    images: Path, depths: Path, split: Split, depths_only: bool, unusable: Unusable
) -> list[tuple[str, str]]:
    """Pairs of files with equal ids. depths_only: do not look for images, but name them like their depth maps."""
    depth_names = _list_files(depths, DEPTH_SUFFIXES, f"data.{split}_depths", unusable)
    if depths_only:
        return [(name, name) for _, name in sorted(depth_names.items())]
    image_names = _list_files(images, IMAGE_SUFFIXES, f"data.{split}_images", unusable)
    unpaired = [(images / image_names[name], depths) for name in sorted(image_names.keys() - depth_names.keys())]
    unpaired += [(depths / depth_names[name], images) for name in sorted(depth_names.keys() - image_names.keys())]
    more = unusable.more(len(unpaired) - 1, "the same holds for {} more files")
    for path, other in unpaired:
        what = f"no file with this stem in {other}{more}"
        do = f"add its counterpart or remove it, or name the pairs in a data.{split}_list"
        do += ", or leave such files out with data.on_error=skip"
        unusable.add(UserError(path, what, do))
    ids = sorted(image_names.keys() & depth_names.keys())
    if not ids:
        raise UserError(images, f"no image has a depth map with its stem in {depths}", "correct the folders or names")
    return [(image_names[name], depth_names[name]) for name in ids]


def _list_files(folder: Path, suffixes: frozenset[str], key: str, unusable: Unusable) -> dict[str, str]:
    if problem := problem_with(folder, "folder"):
        raise UserError(folder, problem, f"correct {key} or data.root")
    names = list_files(folder, suffixes, unusable=unusable)
    if not names:
        raise UserError(folder, f"holds no {' '.join(sorted(suffixes))} file", f"correct {key} or data.root")
    return names


def _existing_root(config: NYUConfig, split: Split) -> Path:
    root, file = resolve_path(config.root, ""), LISTS[config.name][split]
    inner = root / config.name
    # Unlike Path's methods, these do not raise an error if a folder may not be entered.
    if os.path.isfile(inner / file) and not os.path.exists(root / file):
        raise UserError(root, "is one folder too high", f"set {shlex.quote(f'data.root={inner}')}")
    if config.name == "nyu":
        check_root(root, "NYU Depth V2", "prepare_nyu")
    elif problem := problem_with(root, "folder"):
        raise UserError(root, problem, "correct data.root, or get KITTI as docs/depth.md says")
    return root
