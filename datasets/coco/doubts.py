"""What is odd in the entries of an annotation file although training survives it, entry by entry."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from datasets.base import Doubt
from datasets.coco.json_file import ImageIndex
from datasets.coco.survey import CROWD, Shapes, large_images
from errors import UserError


def image_doubts(file: Path, folder: Path, index: ImageIndex, used: np.ndarray, min_side: int | None) -> list[Doubt]:
    """Images that several entries name, and images that are too small to train on.

    file: lists the images in `folder`. used: their rows in `index` by position in the dataset. min_side: in pixels;
    None: images of every size are used.
    """
    position = {row: number for number, row in enumerate(used.tolist())}
    found: list[Doubt] = []
    seen: dict[str, int] = {}
    for row, name in enumerate(index.names):
        if name in seen:
            what = f"names the file {name}, as image {index.image_ids[seen[name]]} does"
            error = UserError(f"{file}: image {index.image_ids[row]}", what, "give every image one entry")
            found.append(Doubt(position.get(row), error))
        seen.setdefault(name, row)
    if min_side is not None:
        for row in np.flatnonzero(~large_images(index, min_side)).tolist():
            height, width = index.size(row)
            what = (
                f"is {width} x {height} pixels (width x height), below data.min_side={min_side}: training leaves it out"
            )
            do = f"remove it, or set data.min_side={min(height, width)}"
            found.append(Doubt(None, UserError(folder / index.names[row], what, do)))
    return found


def object_doubts(
    file: Path,
    index: ImageIndex,
    image_rows: np.ndarray,
    used: np.ndarray,
    shapes: Shapes,
    entry: Callable[[int], str],
) -> Iterator[Doubt]:
    """Objects that nothing can be learnt from.

    image_rows: [N], the row in `index` of the image of each of the objects in `shapes`. used: as in `image_doubts`.
    entry: the name of object n in the file.
    """
    position = {row: number for number, row in enumerate(used.tolist())}
    for reason, rows in shapes.unused(training=True).items():
        if reason is CROWD:
            continue
        has = reason.predicate.replace("have", "has", 1)
        for number in np.flatnonzero(rows).tolist():
            row = int(image_rows[number])
            box = ", ".join(f"{value:g}" for value in shapes.boxes[number])
            what = f"on {index.names[row]} {has} (bbox [{box}]): training leaves it out"
            yield Doubt(position.get(row), UserError(f"{file}: {entry(number)}", what, reason.do))
