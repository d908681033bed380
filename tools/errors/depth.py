"""Depth: errors by distance, and by the gradient of the true depth, which is large at the edges of things."""

from typing import Any

import numpy as np

from metrics.depth_errors import DepthErrorsConfig, crop_window
from structures import DatasetInfo, Prediction, Target
from tools.errors.base import NO_SCORES, Analysis, Grade

DISTANCES = 10  # bins
GRADIENTS = np.array([0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, np.inf])  # edges, of the change per pixel over the depth


class Sums:
    """For each of N bins: pixels, and sums of |p - t| / t, (p - t)^2, p - t, and of max(p/t, t/p) < 1.25."""

    def __init__(self, bins: int) -> None:
        self._sums = np.zeros((bins, 5))

    def add(self, places: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> None:
        """Add pixels [P]: the bin, predicted and true depth of each."""
        difference = predicted - true
        good = np.maximum(predicted / true, true / predicted) < 1.25
        columns = (np.ones_like(true), np.abs(difference) / true, difference**2, difference, good)
        for column, values in enumerate(columns):
            self._sums[:, column] += np.bincount(places, weights=values, minlength=len(self._sums))

    def record(self, edges: np.ndarray) -> list[dict[str, Any]]:
        """One record for each bin; errors are NaN where it has no pixel."""
        pixels = self._sums[:, 0]
        means = np.divide(self._sums, pixels[:, None], out=np.full_like(self._sums, np.nan), where=pixels[:, None] > 0)
        return [
            {
                "from": float(edges[index]),
                "to": float(edges[index + 1]) if np.isfinite(edges[index + 1]) else None,
                "pixels": int(pixels[index]),
                "abs_rel": float(means[index, 1]),
                "rms": float(np.sqrt(means[index, 2])),
                "bias": float(means[index, 3]),
                "delta1": float(means[index, 4]),
            }
            for index in range(len(pixels))
        ]


class DepthErrorsByPlace(Analysis):
    """Of the pixels that the metric scores: within its crop and range, predictions clamped to that range."""

    def __init__(self, info: DatasetInfo, config: DepthErrorsConfig) -> None:
        assert info.max_depth is not None
        self._crop = config.crop
        self._range = config.min_depth, info.max_depth if config.max_depth is None else config.max_depth
        self._edges = np.linspace(0, self._range[1], DISTANCES + 1)
        self._all, self._distances, self._gradients = Sums(1), Sums(DISTANCES), Sums(len(GRADIENTS) - 1)

    def add(self, prediction: Prediction, target: Target) -> Grade:
        """Count the `depth` map of one image."""
        assert prediction.depth is not None
        assert target.depth is not None
        window = crop_window(self._crop, target.size)
        true = target.depth.cpu().double().numpy()[window]
        predicted = prediction.depth.cpu().double().numpy()[window].clip(*self._range)
        valid = (true > self._range[0]) & (true < self._range[1])
        if not valid.any():
            return Grade(0.0, "no pixel is scored")
        depths, guesses = true[valid], predicted[valid]
        self._all.add(np.zeros(len(depths), int), guesses, depths)
        self._distances.add(np.searchsorted(self._edges, depths, side="right") - 1, guesses, depths)
        steep = relative_gradient(true)
        both = valid & np.isfinite(steep)
        places = np.searchsorted(GRADIENTS, steep[both], side="right") - 1
        self._gradients.add(places, predicted[both], true[both])
        error = float(np.mean(np.abs(guesses - depths) / depths))
        rms, bias = float(np.sqrt(np.mean((guesses - depths) ** 2))), float(np.mean(guesses - depths))
        return Grade(error, f"off by {100 * error:.1f} % on average; rms {rms:.2f} m, bias {bias:+.2f} m")

    def record(self) -> dict[str, Any]:
        """Errors over all pixels together: abs_rel, rms and bias (predicted less true) in metres, delta1."""
        return {
            "all": self._all.record(np.array(self._range))[0],
            "by_distance": self._distances.record(self._edges),
            "by_gradient": self._gradients.record(GRADIENTS),
            "calibration": {"ece": None, "reason": NO_SCORES},
        }


def relative_gradient(depth: np.ndarray) -> np.ndarray:
    """The length of the gradient of a depth map [H, W] over the depth, per pixel; NaN beside what is not measured.

    Central differences, as numpy.gradient has them; one-sided at the border.
    """
    known = np.where(depth > 0, depth, np.nan)
    rows, columns = np.gradient(known)
    slope: np.ndarray = np.hypot(rows, columns) / known
    return slope
