"""The interfaces of datasets, transforms and prediction files, and the sample that transforms work on."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat

from config import Schema
from datasets.frequency import Occurrences, class_frequencies, class_repeats, repeat_factors
from errors import UserError
from structures import ClassFrequencies, DatasetInfo, Instances, Panoptic, Prediction, Size, Target


@dataclass
class Objects:
    """The objects of one image as numpy arrays; the fields are those of `structures.Instances`.

    boxes: [N, 4] float32, xyxy in pixels of the current (transformed) image. labels: [N] int64. crowd: [N] bool.
    masks: [N, H, W] bool, at the size of the current image. rles, xywh, areas: for the original image, for scoring
    only; transforms do not change them.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    masks: np.ndarray | None = None
    rles: list[bytes] | None = None
    xywh: np.ndarray | None = None
    areas: np.ndarray | None = None

    def instances(self) -> Instances:
        """The same objects as tensors."""
        return Instances(
            boxes=torch.from_numpy(np.ascontiguousarray(self.boxes)),
            labels=torch.from_numpy(self.labels),
            crowd=torch.from_numpy(self.crowd) if self.crowd.any() else None,
            masks=None if self.masks is None else torch.from_numpy(np.ascontiguousarray(self.masks)),
            rles=self.rles,
            xywh=None if self.xywh is None else torch.from_numpy(self.xywh),
            areas=None if self.areas is None else torch.from_numpy(self.areas),
        )


@dataclass
class Sample:
    """One image and its annotation as numpy arrays, which the transforms work on. Every map has the image's size.

    image: [H, W, 3], RGB, uint8 until `normalize` makes it float32. size: the original (height, width).
    semantic: [H, W] int16, labels or IGNORE. depth: [H, W] float32 in metres, 0 = not measured.
    panoptic: for the original image, for scoring only; transforms do not change it. seed: see `structures.Target`.
    """

    image_id: str
    size: Size
    image: np.ndarray
    semantic: np.ndarray | None = None
    depth: np.ndarray | None = None
    objects: Objects | None = None
    panoptic: Panoptic | None = None
    seed: int = 0

    def target(self) -> Target:
        """The annotation as tensors, at the sample's current size."""
        semantic = None if self.semantic is None else torch.from_numpy(np.ascontiguousarray(self.semantic))
        depth = None if self.depth is None else torch.from_numpy(np.ascontiguousarray(self.depth))
        instances = None if self.objects is None else self.objects.instances()
        return Target(
            self.image_id,
            self.size,
            semantic=semantic,
            instances=instances,
            panoptic=self.panoptic,
            depth=depth,
            seed=self.seed,
        )

    def without_annotation(self) -> "Sample":
        """The sample with its image alone."""
        return Sample(self.image_id, self.size, self.image)


def _check_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{list(limits)} is not a range; write the smaller number first")
    return limits


Ascending = AfterValidator(_check_order)
# Of repeat-factor sampling, see `datasets.frequency.repeat_factors`: images with a class that is in a smaller share of
# the training images are repeated. None: every image is seen once in an epoch.
RepeatThreshold = Annotated[float, Field(gt=0, le=1)] | None
FactorRange = Annotated[tuple[PositiveFloat, PositiveFloat], Ascending]


def _check_image_range(value: Any) -> Any:
    numbers = isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value)
    if value is None or value == "full" or (numbers and len(value) == 2 and value[0] < value[1]):
        return value
    raise ValueError(f"{value!r} is not a range; write the values of black and white, as in [0, 4095], full, or null")


# The values of images of more than 8 bits that become 0 and 255 (see `datasets.files.images.read_image`). None: 16 bits
# are read like "full", if most images use them.
ImageRange = Annotated[tuple[float, float] | Literal["full"] | None, BeforeValidator(_check_image_range)]


class Transform(Schema, ABC):
    """Turns a sample into a sample. needs_uint8: whether the image must not have been normalised yet."""

    needs_uint8: ClassVar[bool] = False
    name: str

    @abstractmethod
    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample; the given one is not changed."""


class PredictionFiles(ABC):
    """Predictions on disk, in the exchange format of one dataset. Evaluation writes them, scoring reads them."""

    @abstractmethod
    def write(self, prediction: Prediction, target: Target) -> None:
        """Store the prediction for one image."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the files. Called once in every process after its last `write`.

        Formats with one file for all images write it here; the others have nothing to do.
        """

    @abstractmethod
    def read(self, target: Target) -> Prediction:
        """The stored prediction for the image of `target`. Raises `UserError` if it is missing or malformed."""

    def stored_id(self, image_id: str) -> int | str:
        """What names this image in the files. Two images of one name could not be told apart."""
        return image_id

    def unread(self) -> list[str]:
        """Ids of images with a stored prediction that no `read` asked for; always empty with one file per image."""
        return []


@dataclass(frozen=True)
class Survey:
    """What one split holds: what training learns from, or what evaluation scores.

    counts: number of `unit` by class, in label order, or under other names where there are no classes. left_out: how
    much is left out, by reason. warnings: what is odd and its likely cause, one line each. read: which files were
    read, for example "512 of 20210 label maps", if the counts are of a sample; "" if they are of the whole split.
    """

    unit: str
    counts: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    read: str = ""

    def summary(self) -> str:
        """The counts and what is left out, in one line."""
        used = sum(count > 0 for count in self.counts.values())
        text = f"{sum(self.counts.values())} {self.unit}"
        text += f" of {used} of {len(self.counts)} classes" if len(self.counts) > 1 else ""
        text += f" in {self.read}" if self.read else ""
        left_out = [f"{count} {reason}" for reason, count in self.left_out.items() if count]
        return f"{text}; left out: {', '.join(left_out)}" if left_out else text


class Doubt(NamedTuple):
    """Something that training survives but the data's owner should know. image: its index; None: it concerns none."""

    image: int | None
    error: UserError


class DenseDataset(ABC):
    """The images and annotations of one split. The constructor checks that the files exist, but reads no image.

    groups: [len] int, the group of each image; None: all in one group. Training takes `group_size` images of one group
    in a row, so that images which are padded to one size have similar shapes. unusable: what is left out because it
    cannot be used, if the configuration says so by `on_error: skip`; with `on_error: stop` the first is raised.
    repeat_threshold: see `RepeatThreshold`.
    protocol: other facts that a result must state about the data, such as which published list they follow.

    `files`, `doubts` and `unnamed_files` are for tools that look at the data as a whole (`tools.check_data`).
    """

    info: DatasetInfo
    groups: np.ndarray | None = None
    group_size: int = 1
    repeat_threshold: float | None = None
    unusable: Sequence[UserError] = ()
    protocol: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @property
    def skipped(self) -> list[str]:
        """One line for everything that is left out because it is unusable; logged, and part of every result."""
        return [error.brief for error in self.unusable]

    @abstractmethod
    def image_id(self, index: int) -> str:
        """The id of an image, without reading it."""

    def occurrences(self) -> Occurrences:
        """The classes in each image, in objects or pixels; none for data without classes. Reads all label maps."""
        nothing = np.zeros(0, np.int64)
        return Occurrences(nothing, nothing, nothing)

    def frequencies(self) -> ClassFrequencies:
        """How often each class occurs in the pixels of all images; reads all label maps."""
        return class_frequencies(self._occurrences, self.info.num_classes)

    def class_repeats(self) -> np.ndarray | None:
        """How often images with each class are seen in an epoch on average: [K] float64, at least 1; None: once."""
        if self.repeat_threshold is None:
            return None
        return class_repeats(self._occurrences, self.info.num_classes, len(self), self.repeat_threshold)

    def repeat_factors(self) -> np.ndarray | None:
        """How often each image is seen in an epoch on average: [len] float64, at least 1; None: once."""
        by_class = self.class_repeats()
        return None if by_class is None else repeat_factors(self._occurrences, len(self), by_class)

    @cached_property
    def _occurrences(self) -> Occurrences:
        return self.occurrences()

    def fingerprint(self) -> str:
        """A short text that tells whether two datasets have the same images in the same order, by their ids."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.image_id(index).encode(errors="surrogateescape") + b"\0")
        return f"{len(self)} images ({digest.hexdigest()[:12]})"

    @abstractmethod
    def survey(self, images: Sequence[int] | None = None) -> Survey:
        """Count what is there, before work is lost. Reads annotations, and of large data sets only a sample.

        images: read the files of exactly these images; None: of a sample, in seconds.

        Raises UserError if nothing is left to learn from or to score.
        """

    @abstractmethod
    def files(self, index: int) -> tuple[Path, ...]:
        """The file of an image, and that of its annotation if it has one of its own."""

    def doubts(self) -> list[Doubt]:
        """What is odd in names and entries, such as objects that cannot be learnt; reads no file."""
        return []

    def unnamed_files(self) -> dict[Path, list[Path]]:
        """By folder, its images or annotations that nothing names. Folders of which a list chooses are left out."""
        return {}

    @abstractmethod
    def load(self, index: int) -> Sample:
        """The image and its annotation as stored. Raises `UserError`, naming the file, if one of them is unusable."""

    @abstractmethod
    def target(self, index: int) -> Target:
        """The annotation at original size, for scoring. Reads no image if the annotation states the size."""
