"""The only place where a sample changes its geometry: each function treats the image and every map that is present.

Images are interpolated; maps of labels and of depth take the nearest pixel, by the rule of OpenCV: source = floor(scale
* target). What lies outside the image has no label and no depth.
"""

from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from datasets.base import Sample
from structures import IGNORE, Size


def scaled_size(size: Size, scale: float) -> Size:
    """(height, width) times `scale`, rounded half up as in mmcv and detectron2, at least 1."""
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def resized(sample: Sample, size: Size, antialias: bool = False) -> Sample:
    """The sample at (height, width). antialias: interpolate uint8 images with Pillow, which averages when shrinking.

    Otherwise OpenCV samples the nearest four pixels whatever the scale.
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
    )


def cropped(sample: Sample, top: int, left: int, size: Size) -> Sample:
    """The window of (height, width) at (top, left), or what of it lies inside the image."""
    window = np.s_[top : top + size[0], left : left + size[1]]
    return replace(
        sample,
        image=sample.image[window],
        semantic=None if sample.semantic is None else sample.semantic[window],
        depth=None if sample.depth is None else sample.depth[window],
    )


def flipped(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    return replace(
        sample,
        image=sample.image[:, ::-1],
        semantic=None if sample.semantic is None else sample.semantic[:, ::-1],
        depth=None if sample.depth is None else sample.depth[:, ::-1],
    )


def padded(sample: Sample, size: Size, fill: float = 0) -> Sample:
    """The sample extended at the bottom and the right to at least (height, width); new image pixels are `fill`."""
    height, width = sample.image.shape[:2]
    bottom, right = max(size[0] - height, 0), max(size[1] - width, 0)
    if bottom == right == 0:
        return sample

    def extended(values: np.ndarray, value: float) -> np.ndarray:
        extent = [(0, bottom), (0, right), (0, 0)][: values.ndim]
        return np.pad(values, extent, constant_values=np.asarray(value, values.dtype))

    return replace(
        sample,
        image=extended(sample.image, fill),
        semantic=None if sample.semantic is None else extended(sample.semantic, IGNORE),
        depth=None if sample.depth is None else extended(sample.depth, 0),
    )
