"""Convert a rendering to the labels of the official files: segments, COCO masks, measured depth."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datasets.scenes.classes import CLASSES, SceneClass
from datasets.scenes.primitives import Array
from datasets.scenes.render import Rendering

Mask = NDArray[np.bool_]

# Panoptic ids of an image are multiples of this. They use all three bytes, so a reader that swaps bytes is detected.
ID_STEP = 70_001
BASELINE = 0.075  # metres from the projector to the camera of a structured-light sensor


@dataclass(frozen=True)
class Segment:
    """One segment of one image: the whole of a stuff class, an object, or a crowd. bbox: x, y, w, h in pixels."""

    id: int
    kind: SceneClass
    crowd: bool
    mask: Mask
    area: int
    bbox: tuple[int, int, int, int]


def segments(rendering: Rendering, crowds: Collection[int]) -> list[Segment]:
    """The segments of a rendering, stuff first, with ascending ids; void pixels are in no segment."""
    # Values of `key` up to the number of classes are stuff, higher ones objects; each value is one segment.
    key = np.where(rendering.instance > 0, len(CLASSES) + rendering.instance.astype(np.int64), rendering.label)
    found = []
    for number, value in enumerate(np.unique(key[rendering.label > 0]), start=1):
        mask = (key == value) & (rendering.label > 0)
        kind = CLASSES[int(rendering.label[mask][0]) - 1]
        crowd = int(value) - len(CLASSES) in crowds
        found.append(Segment(number * ID_STEP, kind, crowd, mask, int(mask.sum()), tight_box(mask)))
    return found


def tight_box(mask: Mask) -> tuple[int, int, int, int]:
    """The smallest box around a mask [H, W]: x, y, w, h."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def coco_segmentation(mask: Mask, crowd: bool) -> Any:
    """A mask [H, W] in COCO's form: polygons if they give exactly this mask, otherwise compressed run lengths as text.

    Crowds always have uncompressed run lengths, as in the official files.
    """
    height, width = mask.shape
    if crowd:
        return {"size": [height, width], "counts": run_lengths(mask)}
    outlines = polygons(mask)
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, height, width)))
    if np.array_equal(drawn.astype(bool), mask):
        return outlines
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [height, width], "counts": packed["counts"].decode()}


def run_lengths(mask: Mask) -> list[int]:
    """Run lengths of a mask [H, W] in column-major order, starting with a run of zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def polygons(mask: Mask) -> list[list[float]]:
    """Outer outlines of a mask [H, W] along pixel edges, without holes: x1, y1, x2, y2, ... in pixels."""
    # OpenCV's contours pass through the centres of border pixels. At three times the size these are next to corners.
    large = np.repeat(np.repeat(mask.astype(np.uint8), 3, axis=0), 3, axis=1)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = []
    for contour in contours:
        corners = (contour.reshape(-1, 2) + 1) // 3
        outlines.append(corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)].ravel().astype(float).tolist())
    return outlines


def measured_depth(rendering: Rendering, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Depth [H, W] in whole millimetres as measured by a structured-light sensor: 0 where it cannot measure.

    It cannot measure beside nearer objects, which block its projector, and in patches on shiny, oblique, far surfaces.
    """
    depth = rendering.depth
    height, width = depth.shape
    coarse = rng.uniform(size=(height // 8 + 2, width // 8 + 2))
    patches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    patches = patches + rng.normal(0, 0.05, patches.shape)
    oblique = np.clip((0.3 - rendering.facing) / 0.2, 0, 1)
    far = np.clip((depth - 4.5) / 3, 0, 1)
    lost = 0.03 + 0.25 * rendering.gloss + 0.4 * oblique + 0.3 * far
    holes = (patches < lost) | _unlit(depth, rendering.focal) | (depth <= 0)
    return np.where(holes, 0, depth * 1000).astype(np.uint16)


def _unlit(depth: Array, focal: float) -> Mask:
    """Whether the light of the projector, beside the camera, is blocked by something on the right: [H, W] bool."""
    shift = np.zeros_like(depth)  # disparity in pixels
    np.divide(focal * BASELINE, depth, out=shift, where=depth > 0)
    hidden = np.zeros(depth.shape, dtype=bool)
    for step in range(1, min(int(shift.max()), depth.shape[1] - 1) + 1):
        hidden[:, :-step] |= shift[:, step:] - shift[:, :-step] >= step
    return hidden
