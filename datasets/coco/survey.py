"""Count the annotated objects that training learns from, or that evaluation scores, and the others by reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from datasets.coco.annotations import Annotations, Crowds
from datasets.coco.categories import some_names
from datasets.coco.json_file import ImageIndex, OtherCategory
from datasets.coco.objects import corners, training_boxes
from datasets.frequency import Occurrences
from errors import UserError

SAMPLE = 1000  # masks that boxes are compared with
MOST = 0.5  # the share of odd boxes from which on there is a warning
RELATIVE = "lie within 0..1, as if relative to the image size where the format has pixels"
CORNERS = "as if they were corners x1 y1 x2 y2 where the format is x y width height"
CORRECT_AREA = "correct `area`, or take it out of the file: then it is computed"
CORRECT_BOX = "correct bbox: it is [x, y, width, height] in pixels"


class Reason(NamedTuple):
    """Why objects are left out. name: after their number. predicate: after "all N annotations". do: what to do."""

    name: str
    predicate: str
    do: str


CROWD = Reason(
    "crowds (iscrowd 1)",
    "are crowds (iscrowd 1)",
    "set data.crowds=objects to take crowds as objects, or set iscrowd to 0 in the file",
)
NO_AREA = Reason("with area 0 or less", "have area 0 or less", CORRECT_AREA)
NEGATIVE = Reason("with area below 0", "have area below 0", CORRECT_AREA)
NARROW = Reason("with a box narrower or lower than a pixel", "have a box narrower or lower than a pixel", CORRECT_BOX)
OUTSIDE = Reason("with a box outside the image", "have a box outside the image", CORRECT_BOX)


@dataclass(frozen=True)
class Shapes:
    """What N annotations say of their objects.

    labels: [N] int. boxes: [N, 4] xywh in pixels, areas: [N] in pixels, both NaN where not given. crowd: [N] bool.
    sizes: [N, 2], (height, width) of their images. extents: [S, 4] xywh, the boxes around the masks of the objects in
    the rows `sample` [S].
    """

    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    sizes: np.ndarray
    sample: np.ndarray
    extents: np.ndarray

    def unused(self, training: bool) -> dict[Reason, np.ndarray]:
        """Which objects training learns nothing from, or evaluation does not score, by reason: [N] bool.

        No object has two reasons. In training they are those of `training_objects`, and crowds.
        """
        if not training:
            return {CROWD: self.crowd, NEGATIVE: ~self.crowd & (self.areas < 0)}  # the latter is in no range of areas
        missing = np.isnan(self.boxes).any(axis=1)
        _, kept = training_boxes(self.boxes, self.sizes)
        reasons, left = {}, np.ones(len(self.labels), bool)
        for reason, rows in (
            (CROWD, self.crowd),
            (NO_AREA, self.areas <= 0),
            (NARROW, (self.boxes[:, 2:] < 1).any(axis=1)),
            (OUTSIDE, ~kept & ~missing),
        ):
            reasons[reason] = left & rows
            left = left & ~rows
        return reasons


def large_images(index: ImageIndex, min_side: int) -> np.ndarray:
    """Which images have no side below `min_side` pixels: [M] bool."""
    return np.asarray(index.sizes.min(axis=1) >= min_side)


def rows_of(index: ImageIndex, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The annotations of the images in these rows, ascending [N], and the image row of each [N]."""
    image_rows = np.repeat(np.arange(len(index.image_ids)), np.diff(index.offsets))
    rows = np.flatnonzero(np.isin(image_rows, images))
    return rows, image_rows[rows]


def shapes_of(annotations: Annotations, images: np.ndarray) -> Shapes:
    """The objects of the images in these rows."""
    rows, image_rows = rows_of(annotations, images)
    sizes = annotations.sizes[image_rows]
    sample = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE), dtype=np.int64))
    rles = annotations.rles(rows[sample])
    if rles is None:
        sample = sample[:0]
    masks = [{"size": size, "counts": rle} for size, rle in zip(sizes[sample].tolist(), rles or (), strict=True)]
    return Shapes(
        labels=annotations.labels[rows],
        boxes=annotations.boxes[rows],
        areas=annotations.areas[rows],
        crowd=annotations.crowd[rows],
        sizes=sizes,
        sample=sample,
        extents=mask_utils.toBbox(masks) if masks else np.zeros((0, 4)),
    )


def occurrences(annotations: Annotations, images: np.ndarray) -> Occurrences:
    """The objects that training learns from, by the place of their image in `images`, ascending rows."""
    shapes, (_, image_rows) = shapes_of(annotations, images), rows_of(annotations, images)
    used = ~np.any([*shapes.unused(training=True).values()], axis=0)
    labels = shapes.labels[used].astype(np.int64)
    return Occurrences(np.searchsorted(images, image_rows[used]), labels, np.ones_like(labels))


def left_out_images(index: ImageIndex, wanted: np.ndarray, needed: str, min_side: int) -> dict[str, int]:
    """How many images training leaves out, by reason. wanted, needed: see `no_image`."""
    large = large_images(index, min_side)
    return {
        f"image(s) with a side below {min_side} pixels": int((~large).sum()),
        f"image(s) without {needed}": int((large & ~wanted).sum()),
    }


def left_out_objects(unused: Mapping[Reason, np.ndarray], others: Sequence[OtherCategory]) -> dict[str, int]:
    """How many objects are left out, by reason."""
    return {reason.name: int(rows.sum()) for reason, rows in unused.items()} | left_out_categories(others)


def left_out_categories(others: Sequence[OtherCategory]) -> dict[str, int]:
    """How many annotations are left out because of their category, and their categories' names."""
    found = [other for other in others if other.count]
    names = some_names([other.name for other in found])
    return (
        {f"of categories that are not in data.classes ({names})": sum(other.count for other in found)} if found else {}
    )


def protocol(crowds: Crowds, others: Sequence[OtherCategory]) -> dict[str, Any]:
    """What a result must state: other annotations than those of the file, category by category, or other crowds."""
    left = {other.name: other.count for other in others if other.count}
    return {
        **({"categories_left_out": left} if left else {}),
        **({"crowds": "taken as objects"} if crowds == "objects" else {}),
    }


# --- what is odd -----------------------------------------------------------------------------------------------------


def warnings(
    counts: Mapping[str, int], others: Sequence[OtherCategory], oddity: str | None, unit: str = "object"
) -> list[str]:
    """What is odd about a split, one line each. counts: used objects by class. oddity: see `odd_boxes`."""
    lines = [] if oddity is None else [oddity]
    if unused := [name for name, count in counts.items() if count == 0]:
        lines.append(f"no {unit} of {len(unused)} of {len(counts)} classes: {some_names(unused)}")
    for other in others:
        if other.name in counts and not other.count:
            lines.append(
                f"category {other.category_id} of the file is called {other.name} as a class is and has no annotation: "
                "it is left out"
            )
    return lines


def odd_boxes(shapes: Shapes) -> str | None:
    """What is wrong with most boxes, and its likely cause; None: nothing."""
    given = np.flatnonzero(~np.isnan(shapes.boxes).any(axis=1))
    if not len(given):
        return None
    boxes, limits = shapes.boxes[given], shapes.sizes[given][:, ::-1]
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    if boxes.min() >= 0 and ends.max() <= 1 and (boxes % 1 > 0).any():
        return f"all {len(boxes)} boxes {RELATIVE}"
    beyond = (ends > 1.02 * limits + 1).any(axis=1)
    # Corners would be these boxes, if the last two numbers are larger than the first two, and in the image.
    possible = ((boxes[:, 2:] > starts) & (boxes[:, 2:] <= limits + 1)).all(axis=1)
    areas, corner_areas = shapes.areas[given], (boxes[:, 2:] - starts).prod(axis=1)
    by_area = possible & _close(corner_areas, areas) & ~_close(boxes[:, 2:].prod(axis=1), areas)
    sampled, of_masks = shapes.boxes[shapes.sample], corners(shapes.extents)
    tolerance = 2 + 0.1 * shapes.extents[:, 2:].max(axis=1, initial=0)
    misfits = np.abs(corners(sampled) - of_masks).max(axis=1, initial=0) > tolerance
    by_mask = misfits & (np.abs(sampled - of_masks) <= 2).all(axis=1)
    if possible.mean() > 0.95:
        for odd, what, least in (
            (by_mask, "contradict their masks", MOST),
            (by_area, "contradict their areas", MOST),
            (beyond, "end beyond their image", 0.2),
        ):
            if len(odd) and odd.mean() > least:
                return f"{odd.sum()} of {len(odd)} boxes {what}, {CORNERS}"
    if beyond.mean() > MOST:
        return (
            f"{beyond.sum()} of {len(boxes)} boxes end beyond their image, as if they were made for images of another "
            f"size; {CORRECT_BOX}"
        )
    if len(misfits) and misfits.mean() > MOST:
        return f"{misfits.sum()} of {len(misfits)} boxes do not enclose their masks; {CORRECT_BOX}"
    return None


def _close(areas: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(areas - expected) <= 1 + 0.02 * np.abs(expected)


# --- nothing is left -------------------------------------------------------------------------------------------------


def nothing_left(
    file: Path, verb: str, unused: Mapping[Reason, np.ndarray], oddity: str | None, unit: str = "annotations"
) -> UserError:
    """The error for a split of which every annotation is left out. verb: "learn" or "score"."""
    past = {"learn": "learnt from", "score": "scored"}[verb]
    counts = {reason: int(rows.sum()) for reason, rows in unused.items() if rows.any()}
    total = sum(counts.values())
    if oddity is not None and RELATIVE in oddity and NARROW in counts:
        do = "multiply x and width by the width of the image, y and height by its height"
        return UserError(file, f"{oddity}: nothing to {verb}", do)
    most = max(counts, key=lambda reason: counts[reason])
    if len(counts) == 1:
        return UserError(file, f"all {total} {unit} {most.predicate}, nothing to {verb}", most.do)
    reasons = ", ".join(f"{count} {reason.name}" for reason, count in counts.items())
    return UserError(file, f"none of {total} {unit} can be {past}: {reasons}", most.do)


def no_image(
    file: Path,
    index: ImageIndex,
    wanted: np.ndarray,
    needed: str,
    min_side: int,
    skipped: Sequence[str],
    do: str = "name other annotations",
) -> UserError:
    """The error for a split without an image to train on, or without any annotation.

    wanted: [M] bool, whether an image has what is needed, whatever its size; needed: what that is, in words. skipped:
    the unusable entries of the file. do: what to do if there is no other reason.
    """
    if wanted.any():
        sides = index.sizes[wanted].min(axis=1)
        which = "" if wanted.all() else f" with {needed}"
        what = f"all {len(sides)} images{which} have a side below {min_side} pixels"
        return UserError(file, what, f"lower data.min_side, for example data.min_side={sides.max()}")
    what = f"none of its {len(index.image_ids)} images has {needed}"
    if skipped:
        first = skipped[0].removeprefix(f"{file}: ")
        what, do = f"{what}, but {len(skipped)} entries are unusable (the first: {first})", "correct the file"
    for reason, count in left_out_categories(index.others).items():
        what, do = f"{what}, but {count} are {reason}", "list these in data.classes, or name other annotations"
    return UserError(file, what, do)
