"""Least squares: true depth = scale * predicted depth + shift, over all measured pixels of all images."""

from math import fsum
from typing import Any, NamedTuple

import numpy as np

from errors import UserError
from metrics.base import Metric
from metrics.distributed import gather_objects
from structures import Prediction, Target

CONSTANT = 1e-6  # predictions whose standard deviation is below this share of their mean are all the same


class Moments(NamedTuple):
    """Of the measured pixels of one image: their number, both means, and sums of products of deviations from them."""

    pixels: int
    predicted: float
    true: float
    predicted_predicted: float
    predicted_true: float


class ScaleAndShift(Metric):
    """The scale and the shift of least squares. The state is five numbers per image, so it can be summed exactly.

    Every measured pixel counts the same, whatever its depth; no outlier is left out or given less weight.
    """

    names = ("scale", "shift")
    primary = "scale"

    def __init__(self) -> None:
        self.protocol: dict[str, Any] = {}
        self._images: list[Moments] = []

    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Add predicted and true `depth` maps [H, W] in metres. Raises UserError if a prediction is not finite."""
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.depth is not None
            assert target.depth is not None
            true = target.depth.cpu().double().numpy()
            measured = true > 0
            p, t = prediction.depth.cpu().double().numpy()[measured], true[measured]
            if not np.isfinite(p).all():
                what = f"image {target.image_id} has predicted depths that are not finite"
                raise UserError("--checkpoint", what, "use another checkpoint: its weights have diverged")
            if len(t):
                mean_p, mean_t = p.mean(), t.mean()
                deviations = p - mean_p
                products = float(deviations @ deviations), float(deviations @ (t - mean_t))
                self._images.append(Moments(len(t), float(mean_p), float(mean_t), *products))

    def gather(self) -> None:
        """Give every process the numbers of all images."""
        self._images = [image for part in gather_objects(self._images) for image in part]

    @property
    def images(self) -> int:
        """The number of images with a measured pixel."""
        return len(self._images)

    @property
    def pixels(self) -> int:
        """The number of measured pixels."""
        return sum(image.pixels for image in self._images)

    def compute(self) -> dict[str, float]:
        """Both by name. Raises UserError if the pixels do not determine them, or if the scale is not above 0."""
        images, count = self._images, self.pixels
        if not images:
            do = "name data with depth, or the other --split; python -m tools.check_data shows what is in them"
            raise UserError("data", "no pixel has a measured depth between data.min_depth and data.max_depth", do)
        mean_p = fsum(image.pixels * image.predicted for image in images) / count
        mean_t = fsum(image.pixels * image.true for image in images) / count
        variance = fsum(image.predicted_predicted + image.pixels * (image.predicted - mean_p) ** 2 for image in images)
        covariance = fsum(
            image.predicted_true + image.pixels * (image.predicted - mean_p) * (image.true - mean_t) for image in images
        )
        if variance <= count * (CONSTANT * mean_p) ** 2:
            what = f"the model predicts {mean_p:.4g} m at every measured pixel, which fits any scale"
            raise UserError("--checkpoint", what, "use a model that is trained, and more images")
        scale = covariance / variance
        if scale <= 0:
            what = f"its predictions grow where the true depth shrinks (scale {scale:.3g})"
            raise UserError("--checkpoint", what, "train it on this data: no scale and shift makes up for that")
        return {"scale": scale, "shift": mean_t - scale * mean_p}

    def per_class(self) -> list[dict[str, Any]]:
        """An empty list: depth has no classes."""
        return []
