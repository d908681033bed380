"""Errors of depth maps in metres, as monocular depth is scored on NYU and KITTI (Eigen et al., NeurIPS 2014, sec. 4).

With p the predicted and t the true depths of an image's valid pixels, and e = ln p - ln t:

    delta1 delta2 delta3   share of pixels with max(p / t, t / p) < 1.25, 1.25^2, 1.25^3
    abs_rel, sq_rel        mean |p - t| / t, mean (p - t)^2 / t
    rms, rms_log           sqrt(mean (p - t)^2), sqrt(mean e^2)
    log10                  mean |log10 p - log10 t|
    silog                  100 sqrt(mean e^2 - (mean e)^2), as on KITTI's server

Each is taken per image; then comes the mean over the images, each counting the same however many pixels are valid. Or
each is taken once, over the valid pixels of all images.
"""

from collections.abc import Sequence
from math import fsum, sqrt
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
NYU_SIZE = 480, 640  # height and width for which these are defined: (first row, end, first column, end), half-open
NYU_WINDOWS = {"eigen": (45, 471, 41, 601), "nyu": (44, 471, 40, 601)}
GARG = 0.40810811, 0.99189189, 0.03594771, 0.96405229  # the same as shares of height and width, cut to whole pixels
CROPS = {
    "eigen": "eigen: rows 45:471 and columns 41:601 of 480 x 640 (half-open), in proportion for other sizes",
    "nyu": "nyu: rows 44:471 and columns 40:601 of 480 x 640 (half-open), in proportion for other sizes",
    "garg": "garg: rows 0.40810811 to 0.99189189 of the height, columns 0.03594771 to 0.96405229 of the width",
    "none": "none: the whole image",
}
AVERAGES = {
    "images": "images: per image over its valid pixels, then the mean over images",
    "pixels": "pixels: over the valid pixels of all images together",
}


class Means(NamedTuple):
    """Over the N valid pixels of one or more images. See the module for the letters."""

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
    """crop: part of the image that counts. eigen: rows 45:471, columns 41:601 of 480 x 640, as papers on NYU score.

    nyu: one row and column more at the top and the left, the region of NYU's own toolbox, whose indices start from 1.
    garg: the lower part of KITTI's images (Garg et al., ECCV 2016). Sizes other than 480 x 640 take eigen and nyu in
    proportion; that is not the crop which papers on KITTI call Eigen's. none: the whole image.
    average: over the images, each with its own numbers, as papers on NYU do; or over all pixels together.
    min_depth, max_depth: metres; pixels count whose true depth lies between, both ends excluded, and predictions are
    clamped to them. max_depth None: the data's; beyond that the data measure nothing.
    """

    name: Literal["depth_errors"] = "depth_errors"
    crop: Crop = "eigen"
    average: Average = "images"
    min_depth: PositiveFloat = 0.001
    max_depth: PositiveFloat | None = None

    def build(self, info: DatasetInfo) -> "DepthErrors":
        """The metric for data of `info`. Raises UserError if they are no depth, or the range is empty or beyond it."""
        if info.task != "depth" or info.max_depth is None:
            what = f"{info.name} is {info.task} data, which has no depth"
            raise UserError("metrics.depth_errors", what, "choose a metric of its task")
        max_depth = info.max_depth if self.max_depth is None else self.max_depth
        if max_depth > info.max_depth:
            what = f"{max_depth:g} m is beyond data.max_depth, {info.max_depth:g} m"
            raise UserError("metrics.depth_errors.max_depth", what, "raise data.max_depth, too")
        if self.min_depth >= max_depth:
            what = f"{self.min_depth:g} m is not below the largest depth, {max_depth:g} m"
            raise UserError("metrics.depth_errors.min_depth", what, "lower it")
        return DepthErrors(self.crop, self.average, self.min_depth, max_depth)


class DepthErrors(Metric):
    """Nine numbers, means over images or pixels. A depth that is not finite makes them NaN.

    It keeps eleven float64 per image and adds them up exactly, so the numbers do not depend on the order of the images
    or the number of processes. Images without a valid pixel are left out of the means and named in the protocol.
    The best checkpoint is that of the smallest abs_rel, as in the code base of DepthFormer.
    """

    names = NAMES
    primary = "abs_rel"
    lower_is_better: ClassVar[frozenset[str]] = frozenset(NAMES[3:])

    def __init__(self, crop: Crop, average: Average, min_depth: float, max_depth: float) -> None:
        self._crop = crop
        self._average = average
        self._range = min_depth, max_depth
        self._images: dict[str, Means | None] = {}  # by image id; None without a valid pixel
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
        """Take in predicted and true `depth` [H, W], metres, of equal sizes. ValueError if an image comes again."""
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.depth is not None
            assert target.depth is not None
            if target.image_id in self._images:
                raise ValueError(f"image {target.image_id} was scored before")
            window = crop_window(self._crop, target.size)
            true, predicted = target.depth.cpu().numpy()[window], prediction.depth.cpu().float().numpy()[window]
            lowest, highest = self._range
            valid = (true > lowest) & (true < highest)
            clamped = predicted[valid].astype(np.float64).clip(lowest, highest)
            self._images[target.image_id] = means(clamped, true[valid].astype(np.float64))
        self._name_images_left_out()

    def gather(self) -> None:
        """Give every process the numbers of all images. ValueError if two processes scored the same image."""
        parts = gather_objects(self._images)
        self._images = {image_id: found for part in parts for image_id, found in part.items()}
        if len(self._images) < sum(map(len, parts)):
            raise ValueError("two processes scored the same image")
        self._name_images_left_out()

    def compute(self) -> dict[str, float]:
        """The nine numbers. Raises UserError if no image has a valid pixel."""
        images = [found for found in self._images.values() if found is not None]
        if not images:
            what = f"not one pixel was measured within the crop ({self._crop}) and the depth range"
            do = "check data.depth_scale, and crop, min_depth and max_depth of metrics.depth_errors"
            raise UserError("validation set", what, do)
        if self._average == "pixels":
            return errors(pooled(images))
        of_images = [errors(found) for found in images]
        return {name: fsum(numbers[name] for numbers in of_images) / len(images) for name in NAMES}

    def per_class(self) -> list[dict[str, Any]]:
        """Depth has no classes."""
        return []

    def _name_images_left_out(self) -> None:
        left_out = sorted(image_id for image_id, found in self._images.items() if found is None)
        self.protocol["images_without_valid_pixel"] = left_out


def crop_window(crop: Crop, size: Size) -> tuple[slice, slice]:
    """The rows and the columns of a crop in images of (height, width)."""
    if crop == "none":
        return slice(None), slice(None)
    height, width = size
    if crop == "garg":
        top, bottom, left, right = GARG
        return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
    top, bottom, left, right = NYU_WINDOWS[crop]
    rows, columns = height / NYU_SIZE[0], width / NYU_SIZE[1]
    return slice(_half_up(top * rows), _half_up(bottom * rows)), slice(
        _half_up(left * columns), _half_up(right * columns)
    )


def means(predicted: np.ndarray, true: np.ndarray) -> Means | None:
    """Of one image, from its depths [N] float64 above 0; None if N is 0."""
    if not len(true):
        return None
    ratios = np.maximum(predicted / true, true / predicted)
    differences, logs = predicted - true, np.log(predicted / true)
    found = (
        *(np.mean(ratios < 1.25**power) for power in (1, 2, 3)),
        np.mean(np.abs(differences) / true),
        np.mean(differences**2),
        np.mean(np.abs(logs)) / np.log(10),
        np.mean(logs**2),
        np.mean(differences**2 / true),
        np.mean(logs),
        np.var(logs),
    )
    return Means(len(true), *map(float, found))


def pooled(images: Sequence[Means]) -> Means:
    """Over the pixels of all images together."""
    count = fsum(image.pixels for image in images)
    total = Means(count, *(fsum(image.pixels * image[field] for image in images) / count for field in range(1, 11)))
    variance = fsum(image.pixels * (image.log_variance + (image.log - total.log) ** 2) for image in images) / count
    return total._replace(log_variance=variance)


def errors(found: Means) -> dict[str, float]:
    """The nine numbers."""
    values = found._asdict()
    values |= {"rms": sqrt(found.square), "rms_log": sqrt(found.log_square), "silog": 100 * sqrt(found.log_variance)}
    return {name: values[name] for name in NAMES}


def _half_up(number: float) -> int:
    return int(number + 0.5)
