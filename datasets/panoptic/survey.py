"""Count the segments that training learns from, or that evaluation scores, and the others by reason."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import Doubt, Survey
from datasets.coco.annotations import Annotations
from datasets.coco.doubts import object_doubts
from datasets.coco.survey import (
    Shapes,
    left_out_images,
    left_out_objects,
    no_image,
    nothing_left,
    occurrences,
    odd_boxes,
    rows_of,
    shapes_of,
    warnings,
)
from datasets.frequency import Occurrences
from datasets.panoptic.annotations import Segments
from structures import IGNORE, DatasetInfo


class Split(NamedTuple):
    """What is counted. images: the rows of the images in use. wanted: [M] bool, see `no_image`.

    instances: another file that things are learnt from, and the rows of the images there; None: there is none.
    """

    file: Path
    info: DatasetInfo
    training: bool
    segments: Segments
    images: np.ndarray
    wanted: np.ndarray
    min_side: int
    instances: tuple[Annotations, np.ndarray] | None


def survey(split: Split, skipped: Sequence[str]) -> Survey:
    """The counts. skipped: the unusable entries of the file.

    Raises UserError if there is no segment, if none can be scored, or if there are things but none can be learnt.
    """
    segments, info, training = split.segments, split.info, split.training
    rows, image_rows = rows_of(segments, split.images)
    known = segments.labels[rows] != IGNORE
    rows, image_rows = rows[known], image_rows[known]
    if not len(rows):
        raise no_image(split.file, segments, _with_segments(segments), "a segment", split.min_side, skipped)
    is_thing, others = np.array(info.things)[segments.labels[rows]], segments.others
    if not training:
        shapes = _shapes(segments, rows, image_rows)
    elif split.instances is None:
        shapes = _shapes(segments, rows[is_thing], image_rows[is_thing])
    else:
        shapes, others = shapes_of(*split.instances), others + split.instances[0].others

    unused, oddity = shapes.unused(training), odd_boxes(shapes) if training else None
    used = ~np.any([*unused.values()], axis=0)
    if len(used) and not used.any():
        verb, unit = ("learn", "things") if training else ("score", "segments")
        raise nothing_left(split.file, verb, unused, oddity, unit)
    labels = [shapes.labels[used], segments.labels[rows[~is_thing]] if training else []]
    numbers = np.bincount(np.concatenate(labels).astype(np.int64), minlength=info.num_classes)
    counts = dict(zip(info.classes, numbers.tolist(), strict=True))
    images = left_out_images(segments, split.wanted, "a thing", split.min_side) if training else {}
    left_out = images | left_out_objects(unused, others)
    return Survey("segments", counts, left_out, warnings(counts, others, oddity, "segment"))


def segment_occurrences(split: Split) -> Occurrences:
    """The segments of each class that training learns from, crowds left out; things of `instances` if there are any."""
    segments, images = split.segments, split.images
    rows, image_rows = rows_of(segments, images)
    labels = segments.labels[rows]
    is_thing = np.append(split.info.things, False)[labels]  # the last is for IGNORE, -1
    kept = (labels != IGNORE) & ~segments.crowd[rows] & (~is_thing | (split.instances is None))
    labels = labels[kept].astype(np.int64)
    own = Occurrences(np.searchsorted(images, image_rows[kept]), labels, np.ones_like(labels))
    if split.instances is None:
        return own
    things = occurrences(*split.instances)
    return Occurrences(*(np.concatenate(pair) for pair in zip(own, things, strict=True)))


def segment_doubts(split: Split) -> Iterator[Doubt]:
    """Things that nothing can be learnt from, of the panoptic file, even if they are learnt from instances."""
    segments, images = split.segments, split.images
    rows, image_rows = rows_of(segments, images)
    things = np.append(split.info.things, False)[segments.labels[rows]]  # the last is for IGNORE, -1
    rows, image_rows = rows[things], image_rows[things]
    shapes = _shapes(segments, rows, image_rows)
    return object_doubts(split.file, segments, image_rows, images, shapes, lambda n: f"segment {segments.ids[rows[n]]}")


def _with_segments(segments: Segments) -> np.ndarray:
    """Which images have a segment of a class: [M] bool."""
    image_rows = np.repeat(np.arange(len(segments.image_ids)), np.diff(segments.offsets))
    return np.bincount(image_rows, segments.labels != IGNORE, minlength=len(segments.image_ids)) > 0


def _shapes(segments: Segments, rows: np.ndarray, image_rows: np.ndarray) -> Shapes:
    return Shapes(
        labels=segments.labels[rows],
        boxes=segments.boxes[rows].astype(np.float64),
        areas=np.full(len(rows), np.nan),
        crowd=segments.crowd[rows],
        sizes=segments.sizes[image_rows],
        sample=rows[:0],
        extents=np.zeros((0, 4)),
    )
