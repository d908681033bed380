"""Pictures of depth maps: near is bright, far is dark, on one scale in metres; with ground truth also the errors."""

import cv2
import numpy as np

from pictures.canvas import BLACK, RED, WHITE, Colour, as_tuple

Legend = dict[str, Colour]

STEPS = 5  # entries of each scale in the legend
PERCENTILES = 1, 99  # the ends of a scale; so single outliers do not stretch it


def depth_panels(truth: np.ndarray | None, prediction: np.ndarray) -> tuple[dict[str, np.ndarray], Legend]:
    """Panels and legend for depth maps [H, W] in metres; pixels that were not measured (truth 0) are black.

    Truth and prediction have the same scale, that of the truth if it is given; depths beyond it get the colour of its
    end.
    """
    prediction = np.nan_to_num(prediction, posinf=0, neginf=0)
    measured = None if truth is None else truth > 0
    if truth is None or measured is None or not measured.any():
        scale = _scale(prediction)
        panels = {} if truth is None else {"truth": _blacken(colour_depths(truth, scale), truth > 0)}
        return {**panels, "prediction": colour_depths(prediction, scale)}, _depth_legend(scale)
    scale = _scale(truth[measured])
    errors = np.abs(prediction - truth)
    largest = float(np.percentile(errors[measured], PERCENTILES[1]))
    panels = {
        "truth": _blacken(colour_depths(truth, scale), measured),
        "prediction": colour_depths(prediction, scale),
        f"error: white 0, red {largest:.2f} m or more": _blacken(colour_errors(errors, largest), measured),
    }
    steps = np.linspace(0, largest, STEPS)[1:]  # white needs no entry in the legend
    legend = {f"off by {step:.2f} m": as_tuple(colour_errors(np.array([[step]]), largest)[0, 0]) for step in steps}
    return panels, _depth_legend(scale) | legend


def draw_depth(truth: np.ndarray) -> np.ndarray:
    """A depth map [H, W] in metres alone, as RGB; pixels that were not measured (0) are black."""
    measured = truth > 0
    scale = _scale(truth[measured]) if measured.any() else (0.0, 1.0)
    return _blacken(colour_depths(truth, scale), measured)


def colour_depths(depth: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Depths [H, W] as RGB [H, W, 3] in viridis colours: yellow at the near end of `scale`, violet at the far end."""
    nearness = 1 - _normalise(depth, *scale)
    return cv2.applyColorMap(np.rint(nearness * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]


def colour_errors(errors: np.ndarray, largest: float) -> np.ndarray:
    """Errors [H, W] as RGB [H, W, 3]: white at 0, red at `largest` and beyond."""
    share = _normalise(errors, 0, largest)[..., None]
    return np.rint(np.array(WHITE) * (1 - share) + np.array(RED) * share).astype(np.uint8)


def _normalise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high to 0..1, clipped."""
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)


def _scale(depth: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(depth, PERCENTILES)
    return float(low), float(high)


def _blacken(panel: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Make pixels that were not measured black."""
    return np.where(measured[..., None], panel, np.array(BLACK)).astype(np.uint8)


def _depth_legend(scale: tuple[float, float]) -> Legend:
    steps = np.linspace(*scale, STEPS)
    return {f"{metres:.2f} m": as_tuple(colour_depths(np.array([[metres]]), scale)[0, 0]) for metres in steps}
