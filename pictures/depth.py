"""Depth maps as colours, near bright and far dark, over one range of metres; where the truth is known, also errors."""

import cv2
import numpy as np

from pictures.canvas import BLACK, RED, WHITE

Colours = dict[str, tuple[int, int, int]]

STEPS = 5  # of each scale in the legend
PERCENTILES = 1, 99  # the ends of a scale: single wild pixels do not stretch it


def depth_panels(truth: np.ndarray | None, prediction: np.ndarray) -> tuple[dict[str, np.ndarray], Colours]:
    """Panels and legend for depth maps [H, W] in metres; pixels of the truth that were not measured (0) are black.

    Truth and prediction share a scale, that of the truth if it is known; what lies beyond has the colour of its end.
    """
    prediction = np.nan_to_num(prediction, posinf=0, neginf=0)
    measured = None if truth is None else truth > 0
    if truth is None or measured is None or not measured.any():
        scale = _scale(prediction)
        panels = {} if truth is None else {"truth": _masked(coloured(truth, scale), truth > 0)}
        return {**panels, "prediction": coloured(prediction, scale)}, _depth_legend(scale)
    scale = _scale(truth[measured])
    errors = np.abs(prediction - truth)
    largest = float(np.percentile(errors[measured], PERCENTILES[1]))
    panels = {
        "truth": _masked(coloured(truth, scale), measured),
        "prediction": coloured(prediction, scale),
        f"error: white 0, red {largest:.2f} m or more": _masked(reddened(errors, largest), measured),
    }
    steps = np.linspace(0, largest, STEPS)[1:]  # white needs no place in the legend
    legend = {f"off by {step:.2f} m": _colour(reddened(np.array([[step]]), largest)) for step in steps}
    return panels, _depth_legend(scale) | legend


def coloured(depth: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """[H, W] metres as RGB [H, W, 3]: from yellow, as near as the first of `scale`, to violet (viridis)."""
    nearness = 1 - _share(depth, *scale)
    return cv2.applyColorMap(np.rint(nearness * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]


def reddened(errors: np.ndarray, largest: float) -> np.ndarray:
    """[H, W] metres as RGB [H, W, 3]: white where 0, red from `largest` on."""
    share = _share(errors, 0, largest)[..., None]
    return np.rint(np.array(WHITE) * (1 - share) + np.array(RED) * share).astype(np.uint8)


def _share(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)


def _scale(depth: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(depth, PERCENTILES)
    return float(low), float(high)


def _masked(panel: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.where(kept[..., None], panel, np.array(BLACK)).astype(np.uint8)


def _depth_legend(scale: tuple[float, float]) -> Colours:
    return {f"{metres:.2f} m": _colour(coloured(np.array([[metres]]), scale)) for metres in np.linspace(*scale, STEPS)}


def _colour(pixel: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in pixel[0, 0])
    return red, green, blue
