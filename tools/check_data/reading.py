"""Read one image and its annotation as training would, and keep a small record of what they hold.

Records travel from the workers to the main process instead of images, so memory does not grow with the images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.base import DenseDataset
from errors import UserError
from structures import IGNORE, DatasetInfo, Instances, Panoptic, Size, Target

SIDE_STEPS = 2  # bins of object sides for each doubling
SIDE_BINS = 12 * SIDE_STEPS + 1  # up to 4096 pixels, and beyond
DEPTH_BINS = 50  # from 0 to max_depth


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass
class Reading:
    """What image `index` holds, or the error that reading it ended with.

    digest: of the decoded pixels. labels, objects, pixels: [C], the classes that it has, and of each the number of
    objects (crowds too) and of pixels. labelled: the share of pixels with a class, or with a depth. sides: [SIDE_BINS]
    objects by the square root of their area, see `side_edges`. depths: [DEPTH_BINS] measured pixels by depth.
    nearest, farthest: depths in metres.
    """

    index: int
    error: UserError | None = None
    digest: bytes = b""
    size: Size = (0, 0)
    labels: np.ndarray = field(default_factory=_none)
    objects: np.ndarray = field(default_factory=_none)
    pixels: np.ndarray = field(default_factory=_none)
    labelled: float = 0.0
    sides: np.ndarray = field(default_factory=_none)
    depths: np.ndarray = field(default_factory=_none)
    nearest: float = np.inf
    farthest: float = 0.0


@dataclass(frozen=True)
class Reader:
    """Reads the images of a group, in a worker. validation: also read the annotation as scoring does."""

    dataset: DenseDataset
    validation: bool

    def __call__(self, group: Sequence[int]) -> list[Reading]:
        """The records of the images with these indices."""
        return [self._read(index) for index in group]

    def _read(self, index: int) -> Reading:
        try:
            sample = self.dataset.load(index)
            target = self.dataset.target(index) if self.validation else sample.target()
        except UserError as error:
            return Reading(index, error)
        reading = measure(index, target, self.dataset.info)
        reading.digest = digest_of(sample.image)
        return reading


def digest_of(image: np.ndarray) -> bytes:
    """What tells whether two images have the same size and pixels, 16 bytes."""
    shape = str(image.shape[:2]).encode()
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16, key=shape).digest()


def measure(index: int, target: Target, info: DatasetInfo) -> Reading:
    """The record of an annotation."""
    reading = Reading(index, size=target.size)
    objects, pixels = np.zeros((2, info.num_classes), np.int64)
    labelled = np.zeros(0, bool)
    if target.semantic is not None:
        semantic = target.semantic.numpy()
        labelled = semantic != IGNORE
        pixels += np.bincount(semantic[labelled], minlength=info.num_classes)
    if target.instances is not None:
        areas = _areas(target.instances)
        labels = target.instances.labels.numpy()
        objects += np.bincount(labels, minlength=info.num_classes)
        if target.semantic is None and (target.instances.masks is not None or target.instances.rles is not None):
            pixels += np.bincount(labels, areas, info.num_classes).astype(np.int64)
        reading.sides = _sides(areas)
    if target.panoptic is not None:
        labels, areas, labelled = _segments(target.panoptic)
        pixels += np.bincount(labels, areas, info.num_classes).astype(np.int64)
        things = np.array(info.things)[labels]
        objects += np.bincount(labels[things], minlength=info.num_classes)
        reading.sides = _sides(areas[things])
    if target.depth is not None:
        depth = target.depth.numpy()
        labelled = depth > 0
        _measure_depth(reading, depth[labelled], info.max_depth or 1.0)
    reading.labels = np.flatnonzero((objects > 0) | (pixels > 0))
    reading.objects, reading.pixels = objects[reading.labels], pixels[reading.labels]
    reading.labelled = float(labelled.mean()) if labelled.size else 0.0
    return reading


def side_edges() -> np.ndarray:
    """The lower edges of the bins of object sides, in pixels."""
    return np.concatenate([[0.0], 2 ** (np.arange(1, SIDE_BINS) / SIDE_STEPS)])


def _sides(areas: np.ndarray) -> np.ndarray:
    bins = np.floor(np.log2(np.maximum(areas, 1)) / 2 * SIDE_STEPS).astype(np.int64)
    return np.bincount(bins.clip(0, SIDE_BINS - 1), minlength=SIDE_BINS)


def _areas(instances: Instances) -> np.ndarray:
    """The areas of masks, of COCO's annotations, or of boxes, in pixels: [N]."""
    if instances.masks is not None:
        return instances.masks.flatten(1).sum(dim=1).double().numpy() if len(instances.masks) else np.zeros(0)
    if instances.areas is not None:
        return instances.areas.numpy()
    sides = instances.boxes[:, 2:] - instances.boxes[:, :2]
    return (sides[:, 0] * sides[:, 1]).double().numpy()


def _segments(panoptic: Panoptic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels [N] and areas [N] of the segments, and which pixels have one: [H, W] bool."""
    ids, areas = np.unique(panoptic.ids.numpy(), return_counts=True)
    known = np.array([int(number) in panoptic.labels for number in ids], bool)
    labels = np.array([panoptic.labels[int(number)] for number in ids[known]], np.int64)
    return labels, areas[known], np.isin(panoptic.ids.numpy(), ids[known])


def _measure_depth(reading: Reading, metres: np.ndarray, max_depth: float) -> None:
    if metres.size:
        bins = (metres / max_depth * DEPTH_BINS).astype(np.int64).clip(0, DEPTH_BINS - 1)
        reading.depths = np.bincount(bins, minlength=DEPTH_BINS)
        reading.nearest, reading.farthest = float(metres.min()), float(metres.max())
