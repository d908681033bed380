"""The objects of one image, from the arrays of an annotation file: those to train on, and all, to score."""

import numpy as np

from datasets.base import Objects
from datasets.coco.annotations import Annotations
from datasets.coco.masks import decode
from structures import Size


def training_objects(annotations: Annotations, image: int) -> Objects:
    """The objects to train on of the image in row `image`, see `COCO`."""
    rows, size = annotations.rows(image), annotations.size(image)
    boxes, kept = training_boxes(annotations.boxes[rows], size)
    kept &= annotations.areas[rows] > 0
    rows, rles = rows[kept], annotations.rles(rows[kept])
    masks = None if rles is None else decode(rles, size)
    return Objects(boxes[kept], annotations.labels[rows], annotations.crowd[rows], masks=masks)


def evaluation_objects(annotations: Annotations, image: int) -> Objects:
    """All objects of the image in row `image`, exactly as in the file."""
    rows = annotations.rows(image)
    xywh = annotations.boxes[rows]
    return Objects(
        boxes=corners(xywh).astype(np.float32),
        labels=annotations.labels[rows],
        crowd=annotations.crowd[rows],
        rles=annotations.rles(rows),
        xywh=xywh,
        areas=annotations.areas[rows],
    )


def training_boxes(xywh: np.ndarray, size: Size | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a file [N, 4] clipped to the image, as xyxy float32, and which of them to train on: [N] bool.

    size: (height, width) of the image, or [N, 2], of the image of each box.
    """
    limits = np.asarray(size)[..., [1, 0, 1, 0]]
    boxes = np.clip(corners(xywh), 0, limits).astype(np.float32)
    return boxes, (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & (xywh[:, 2:] >= 1).all(axis=1)


def corners(xywh: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] as x1, y1, x2, y2."""
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
