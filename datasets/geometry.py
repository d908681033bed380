"""Geometric operations on a sample. Each changes the image and all annotations that the sample has.

Images are interpolated. Label and depth maps take the nearest pixel, by the rule of OpenCV: source = floor(scale *
target). Pixels outside the original image have no label, no depth and no object. Box coordinates are continuous: pixel
i covers i to i + 1.
"""

from dataclasses import replace
from typing import Annotated

import cv2
import numpy as np
from PIL import Image
from pydantic import Field

from datasets.base import Objects, Sample
from errors import UserError
from structures import IGNORE, Size

Side = Annotated[int, Field(gt=0, lt=2**15)]  # of an image, in pixels; parts of OpenCV are limited to it


def scaled_size(size: Size, scale: float) -> Size:
    """(height, width) times `scale`, rounded half up as in mmcv and detectron2; at least 1."""
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def resize(sample: Sample, size: Size, antialias: bool = False) -> Sample:
    """The sample resized to (height, width), with bilinear interpolation of the image.

    antialias: use Pillow (uint8 images only), which averages over more pixels when it shrinks an image. Otherwise
    OpenCV interpolates between the nearest four pixels at any scale.
    """
    height, width = size
    if sample.image.shape[:2] == size:
        return sample
    if antialias:
        picture = Image.fromarray(sample.image)
        image = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
    else:
        image = cv2.resize(sample.image, (width, height), interpolation=cv2.INTER_LINEAR)

    def nearest(values: np.ndarray) -> np.ndarray:
        return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST)

    return replace(
        sample,
        image=image,
        semantic=None if sample.semantic is None else nearest(sample.semantic),
        depth=None if sample.depth is None else nearest(sample.depth),
        objects=None if sample.objects is None else _resize_objects(sample.objects, sample.image.shape[:2], size),
    )


def _resize_objects(objects: Objects, old: Size, new: Size) -> Objects:
    factors = np.array([new[1] / old[1], new[0] / old[0]] * 2, np.float32)
    masks = None if objects.masks is None else _resize_masks(objects.masks, new)
    return replace(objects, boxes=objects.boxes * factors, masks=masks)


def _resize_masks(masks: np.ndarray, size: Size) -> np.ndarray:
    """The nearest pixels of masks [N, H, W], as of `cv2.resize`. Only the part of each with an object is looked at."""
    rows, columns = (_nearest(old, new) for old, new in zip(masks.shape[1:], size, strict=True))
    resized = np.zeros((len(masks), *size), bool)
    for mask, result in zip(masks, resized, strict=True):
        by_column = np.ascontiguousarray(mask.T)  # as decoded masks are stored
        top, left, height, width = cv2.boundingRect(by_column.view(np.uint8))
        down = slice(*np.searchsorted(rows, [top, top + height]))
        across = slice(*np.searchsorted(columns, [left, left + width]))
        result[down, across] = by_column[np.ix_(columns[across], rows[down])].T
    return resized


def _nearest(old: int, new: int) -> np.ndarray:
    """The pixel that OpenCV takes for each of `new` pixels along a side of `old` pixels: [new] int64, ascending."""
    positions = cv2.resize(np.arange(old, dtype=np.float32)[None], (new, 1), interpolation=cv2.INTER_NEAREST)
    return positions[0].astype(np.int64)


def crop(sample: Sample, top: int, left: int, size: Size) -> Sample:
    """The window of (height, width) at (top, left), or the part of it that lies inside the image."""
    window = np.s_[top : top + size[0], left : left + size[1]]
    return replace(
        sample,
        image=sample.image[window],
        semantic=None if sample.semantic is None else sample.semantic[window],
        depth=None if sample.depth is None else sample.depth[window],
        objects=None if sample.objects is None else _crop_objects(sample.objects, top, left, size, window),
    )


def _crop_objects(objects: Objects, top: int, left: int, size: Size, window: tuple[slice, slice]) -> Objects:
    """Clip boxes to the window and drop objects that lie outside it."""
    boxes = objects.boxes - np.array([left, top] * 2, np.float32)
    np.clip(boxes, 0, np.array([size[1], size[0]] * 2, np.float32), out=boxes)
    masks = None if objects.masks is None else objects.masks[:, *window]
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if masks is not None:
        kept &= masks.any(axis=(1, 2))
    return replace(
        objects,
        boxes=boxes[kept],
        labels=objects.labels[kept],
        crowd=objects.crowd[kept],
        masks=None if masks is None else masks[kept],
    )


def flip(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    return replace(
        sample,
        image=cv2.flip(sample.image, 1),  # several times as fast as a view that is copied later
        semantic=None if sample.semantic is None else cv2.flip(sample.semantic, 1),
        depth=None if sample.depth is None else cv2.flip(sample.depth, 1),
        objects=None if sample.objects is None else _flip_objects(sample.objects, sample.image.shape[1]),
    )


def _flip_objects(objects: Objects, width: int) -> Objects:
    boxes = objects.boxes.copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    masks = objects.masks
    if masks is not None:
        mirrored = np.empty(masks.shape, np.uint8)
        for mask, result in zip(masks, mirrored, strict=True):
            cv2.flip(np.ascontiguousarray(mask).view(np.uint8), 1, dst=result)
        masks = mirrored.view(bool)
    return replace(objects, boxes=boxes, masks=masks)


def rotate(sample: Sample, degrees: float) -> Sample:
    """The sample rotated anticlockwise about its centre, at the same size; uncovered image pixels become 0.

    Raises UserError if it has objects: boxes around rotated corners would no longer be tight.
    """
    if sample.objects is not None:
        do = "use it for data without boxes only: take it out of data.train_transforms"
        raise UserError("random_rotate", "cannot rotate the boxes of objects", do)
    height, width = sample.image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)

    def warp(values: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        fills = (fill,) * 4  # one per channel
        return cv2.warpAffine(values, matrix, (width, height), flags=interpolation, borderValue=fills)

    return replace(
        sample,
        image=warp(sample.image, cv2.INTER_LINEAR, 0),
        semantic=None if sample.semantic is None else warp(sample.semantic, cv2.INTER_NEAREST, IGNORE),
        depth=None if sample.depth is None else warp(sample.depth, cv2.INTER_NEAREST, 0),
    )


def pad(sample: Sample, size: Size, fill: float = 0) -> Sample:
    """The sample extended at the bottom and the right to at least (height, width); new image pixels are `fill`."""
    height, width = np.maximum(sample.image.shape[:2], size).tolist()
    return replace(pad_annotation(sample, size), image=_extend(sample.image, (height, width, 3), fill))


def pad_annotation(sample: Sample, size: Size) -> Sample:
    """The sample with its annotation extended as by `pad`, and its image as it was."""
    height, width = np.maximum(sample.image.shape[:2], size).tolist()
    objects = sample.objects
    if objects is not None and objects.masks is not None:
        masks = _extend(objects.masks, (len(objects.masks), height, width), False)
        objects = replace(objects, masks=masks)
    return replace(
        sample,
        semantic=None if sample.semantic is None else _extend(sample.semantic, (height, width), IGNORE),
        depth=None if sample.depth is None else _extend(sample.depth, (height, width), 0),
        objects=objects,
    )


def _extend(values: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    if values.shape == shape:
        return values
    result = np.full(shape, fill, values.dtype) if fill else np.zeros(shape, values.dtype)
    result[tuple(map(slice, values.shape))] = values
    return result
