"""Errors of depth maps, as usual for monocular depth on NYU and KITTI (Eigen et al., NeurIPS 2014, section 4).

Where p are the predicted and t the true depths of an image's valid pixels in metres, and e = ln p - ln t:

    delta1 delta2 delta3   share of pixels with max(p / t, t / p) < 1.25, 1.25^2, 1.25^3
    abs_rel, sq_rel        mean |p - t| / t, mean (p - t)^2 / t
    rms, rms_log           sqrt(mean (p - t)^2), sqrt(mean e^2)
    log10                  mean |log10 p - log10 t|
    silog                  100 sqrt(mean e^2 - (mean e)^2), as on KITTI's server

Each is computed per image and then averaged over the images, which all count the same, no matter how many of their
pixels are valid; or each is computed once, over the valid pixels of all images.
"""

from collections.abc import Sequence
from math import fsum, log, sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import PositiveFloat

from config import Schema
from errors import UserError
from metrics.base import Metric
from metrics.distributed import gather_objects
from structures import DatasetInfo, Prediction, Size, Target

Crop = Literal["eigen", "nyu", "garg", "none"]
Average = Literal["images", "pixels"]

NAMES = ("delta1", "delta2", "delta3", "abs_rel", "rms", "log10", "rms_log", "sq_rel", "silog")
NYU_SIZE = 480, 640  # (height, width) to which NYU_WINDOWS refer
NYU_WINDOWS = {"eigen": (45, 471, 41, 601), "nyu": (44, 471, 40, 601)}  # first row, end row, first column, end column
GARG = 0.40810811, 0.99189189, 0.03594771, 0.96405229  # the same as fractions of height and width, to be truncated
CROPS = {
    "eigen": "eigen: rows 45:471 and columns 41:601 of 480 x 640 (half-open), in proportion for other sizes",
    "nyu": "nyu: rows 44:471 and columns 40:601 of 480 x 640 (half-open), in proportion for other sizes",
    "garg": "garg: rows 0.40810811 to 0.99189189 of the height, columns 0.03594771 to 0.96405229 of the width",
    "none": "none: the whole image",
}
BLOCK = 10_000  # pixels; with more, BLAS starts threads for sums
ONES = np.ones(BLOCK)
# Limits of |e|. A ratio of float32 at a limit, where it is not below it, differs from all others by more than 1e-10.
LOG_DELTAS = tuple(power * log(1.25) - 1e-11 for power in (1, 2, 3))
AVERAGES = {
    "images": "images: per image over its valid pixels, then the mean over images",
    "pixels": "pixels: over the valid pixels of all images together",
}


class Means(NamedTuple):
    """The number of valid pixels in one or more images, and means over them. The module defines p, t and e."""

    pixels: float
    delta1: float
    delta2: float
    delta3: float
    abs_rel: float
    square: float  # of p - t
    log10: float
    log_square: float  # of e
    sq_rel: float
    log: float  # of e
    log_variance: float  # of e


class DepthErrorsConfig(Schema):
    """crop: the part of the image that is scored. eigen: rows 45:471, columns 41:601 of 480 x 640, as in papers on NYU.

    nyu: one more row at the top and one more column at the left: the region of NYU's toolbox, whose indices start from
    1. garg: the lower part of KITTI's images (Garg et al., ECCV 2016). For sizes other than 480 x 640, eigen and nyu
    are scaled in proportion; that differs from the crop which papers on KITTI call Eigen's. none: the whole image.
    average: "images": compute the errors of each image and average them, as in papers on NYU; "pixels": compute them
    over the pixels of all images together.
    min_depth, max_depth: metres; pixels are valid if their true depth is between the two, both excluded; predictions
    are clamped to this range. max_depth None: that of the data, which have no measurements beyond it.
    """

    name: Literal["depth_errors"] = "depth_errors"
    crop: Crop = "eigen"
    average: Average = "images"
    min_depth: PositiveFloat = 0.001
    max_depth: PositiveFloat | None = None

    def build(self, info: DatasetInfo) -> "DepthErrors":
        """The metric for data of `info`. Raises UserError if it has no depth, or if the range is empty or too large."""
        if info.task != "depth" or info.max_depth is None:
            what = f"{info.name} is {info.task} data, which has no depth"
            raise UserError("metrics.depth_errors", what, "choose a metric of its task")
        max_depth = info.max_depth if self.max_depth is None else self.max_depth
        if max_depth > info.max_depth:
            what = f"{max_depth:g} m is beyond data.max_depth, {info.max_depth:g} m"
            raise UserError("metrics.depth_errors.max_depth", what, "raise data.max_depth too")
        if self.min_depth >= max_depth:
            what = f"{self.min_depth:g} m is not below the largest depth, {max_depth:g} m"
            raise UserError("metrics.depth_errors.min_depth", what, "lower it")
        return DepthErrors(self.crop, self.average, self.min_depth, max_depth)


class DepthErrors(Metric):
    """Nine errors, averaged over images or pixels. A predicted depth that is NaN makes them NaN.

    The state is eleven float64 per image. They are summed exactly, so the values depend neither on the order of the
    images nor on the number of processes. Images without a valid pixel are left out and named in the protocol.
    The best checkpoint is the one with the smallest abs_rel, as in the code base of DepthFormer.
    """

    names = NAMES
    primary = "abs_rel"
    lower_is_better: ClassVar[frozenset[str]] = frozenset(NAMES[3:])

    def __init__(self, crop: Crop, average: Average, min_depth: float, max_depth: float) -> None:
        self._crop = crop
        self._average = average
        self._range = min_depth, max_depth
        self._images: dict[str, Means | None] = {}  # by image id; None: no valid pixel
        self.protocol: dict[str, Any] = {
            "depth_crop": CROPS[crop],
            "depth_range": (
                f"pixels with {min_depth:g} m < true depth < {max_depth:g} m; predictions clamped to that range"
            ),
            "depth_averaging": f"{AVERAGES[average]}; no scaling or alignment",
            "delta": "share of pixels with max(p/t, t/p) < 1.25^k",
            "logarithms": "rms_log and silog natural, log10 decimal; silog times 100",
            "images_without_valid_pixel": [],
        }

    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Add predicted and true `depth` maps [H, W] in metres. ValueError if an image was added before."""
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.depth is not None
            assert target.depth is not None
            if target.image_id in self._images:
                raise ValueError(f"image {target.image_id} was scored before")
            window = crop_window(self._crop, target.size)
            true, predicted = target.depth.cpu().numpy()[window], prediction.depth.cpu().float().numpy()[window]
            self._images[target.image_id] = compute_means(predicted, true, self._range)
        self._list_images_left_out()

    def gather(self) -> None:
        """Give every process the means of all images. ValueError if two processes scored the same image."""
        parts = gather_objects(self._images)
        self._images = {image_id: means for part in parts for image_id, means in part.items()}
        if len(self._images) < sum(map(len, parts)):
            raise ValueError("two processes scored the same image")
        self._list_images_left_out()

    def compute(self) -> dict[str, float]:
        """The nine errors. Raises UserError if no image has a valid pixel."""
        images = [means for means in self._images.values() if means is not None]
        if not images:
            what = f"no pixel was measured within the crop ({self._crop}) and the depth range"
            do = "check data.depth_scale, and crop, min_depth and max_depth of metrics.depth_errors"
            raise UserError("validation set", what, do)
        if self._average == "pixels":
            return _errors(_pool(images))
        image_errors = [_errors(means) for means in images]
        return {name: fsum(errors[name] for errors in image_errors) / len(images) for name in NAMES}

    def per_class(self) -> list[dict[str, Any]]:
        """An empty list: depth has no classes."""
        return []

    def _list_images_left_out(self) -> None:
        left_out = sorted(image_id for image_id, means in self._images.items() if means is None)
        self.protocol["images_without_valid_pixel"] = left_out


def crop_window(crop: Crop, size: Size) -> tuple[slice, slice]:
    """The rows and columns of a crop in images of `size`, (height, width)."""
    if crop == "none":
        return slice(None), slice(None)
    height, width = size
    if crop == "garg":
        top, bottom, left, right = GARG
        return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
    top, bottom, left, right = NYU_WINDOWS[crop]
    y_scale, x_scale = height / NYU_SIZE[0], width / NYU_SIZE[1]
    rows = slice(_round_half_up(top * y_scale), _round_half_up(bottom * y_scale))
    return rows, slice(_round_half_up(left * x_scale), _round_half_up(right * x_scale))


def compute_means(predicted: np.ndarray, true: np.ndarray, limits: tuple[float, float]) -> Means | None:
    """The means over the valid pixels of an image, two maps [H, W] of any float type; None if there is none.

    limits: valid are true depths between the two, and predictions are clamped to them. A few pixels at a time stay in
    the processor's cache, which makes float64 as fast as float32.
    """
    valid = (true > limits[0]) & (true < limits[1])
    predicted, true = predicted[valid], true[valid]
    if not len(true):
        return None
    if not limits[0] <= predicted.min() <= predicted.max() <= limits[1]:  # so too if one is NaN
        predicted = predicted.astype(np.float64).clip(*limits)
    starts = range(0, len(true), BLOCK)
    return _pool([_block_means(predicted[start : start + BLOCK], true[start : start + BLOCK]) for start in starts])


def _block_means(predicted: np.ndarray, true: np.ndarray) -> Means:
    """The means over N depths [N], N <= BLOCK."""
    count = len(true)
    predicted, true, ones = predicted.astype(np.float64), true.astype(np.float64), ONES[:count]
    differences, relative = predicted - true, np.divide(predicted, true, out=predicted)
    logs = np.log(relative)
    relative -= 1
    square, sq_rel, log_mean = differences @ differences, differences @ relative, float(ones @ logs) / count
    sizes = np.abs(logs, out=true)
    close = [np.count_nonzero(sizes < limit) for limit in LOG_DELTAS]
    log10, abs_rel = ones @ sizes / np.log(10), ones @ np.abs(relative, out=relative)
    logs -= log_mean
    variance = float(logs @ logs) / count
    means = [float(value) / count for value in (*close, abs_rel, square, log10)]
    return Means._make([count, *means, variance + log_mean**2, float(sq_rel) / count, log_mean, variance])


def _pool(images: Sequence[Means]) -> Means:
    """The means over the pixels of all images, or parts of an image, together."""
    count = fsum(image.pixels for image in images)
    total = Means(count, *(fsum(image.pixels * image[field] for image in images) / count for field in range(1, 11)))
    variance = fsum(image.pixels * (image.log_variance + (image.log - total.log) ** 2) for image in images) / count
    return total._replace(log_variance=variance)


def _errors(means: Means) -> dict[str, float]:
    """The nine errors, computed from means."""
    values = means._asdict()
    values |= {"rms": sqrt(means.square), "rms_log": sqrt(means.log_square), "silog": 100 * sqrt(means.log_variance)}
    return {name: values[name] for name in NAMES}


def _round_half_up(number: float) -> int:
    return int(number + 0.5)
