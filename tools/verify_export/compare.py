"""How far the outputs of a runtime are from PyTorch's. Needs numpy only, so it runs on the target machine."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tools.verify_export.matching import are_lists_alike, differing_pixels, match_objects

# Of the largest difference, relative to the largest value of the output in PyTorch; of the share of labels; and of the
# share of objects that only one of the two has found, or of pixels in other segments.
TOLERANCES = {
    "fp32": {"relative": 1e-4, "labels": 1e-3, "objects": 2e-2},
    "fp16": {"relative": 3e-2, "labels": 2e-2, "objects": 0.1},
}


def compare(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """For each output: the largest "absolute" difference, the same "relative" to the largest value, and "labels".

    labels: the share of places whose label differs: of whole numbers, or the highest of class scores; None for others.
    An output that is missing, of another shape, or not finite where PyTorch's is differs by infinity.
    Of detections the common ones are compared, and "objects" is the share of the others. Of segments it is the share of
    pixels that lie in others.
    """
    objects = None
    if not found.keys() >= wanted.keys():
        pass
    elif "segment_labels" in wanted and found["ids"].shape == wanted["ids"].shape:
        share = differing_pixels(found, wanted)
        return {"ids": {"absolute": 0.0, "relative": 0.0, "labels": None, "objects": share}}
    elif "boxes" in wanted and are_lists_alike(found, wanted):
        found, wanted, objects = match_objects(found, wanted)
    differences = {name: _difference(name, found.get(name), value) for name, value in wanted.items()}
    return {name: each | {"objects": objects} for name, each in differences.items()}


def _difference(name: str, found: np.ndarray | None, wanted: np.ndarray) -> dict[str, Any]:
    if found is None or found.shape != wanted.shape:
        return {"absolute": float("inf"), "relative": float("inf"), "labels": 1.0}
    if wanted.size == 0:
        return {"absolute": 0.0, "relative": 0.0, "labels": None}
    if wanted.dtype.kind != "f":
        return {"absolute": 0.0, "relative": 0.0, "labels": float((found != wanted).mean())}
    absolute = np.abs(found.astype(np.float64) - wanted)
    absolute[np.isnan(found) & np.isnan(wanted)] = 0
    largest = float(np.nan_to_num(absolute, nan=np.inf).max())
    scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-6))
    axis = _class_axis(name)
    labels = None if axis is None else float((found.argmax(axis) != wanted.argmax(axis)).mean())
    return {"absolute": largest, "relative": largest / scale, "labels": labels}


def _class_axis(name: str) -> int | None:
    """The axis of an output's class scores; None if it has none."""
    return {"logits": 1, "semantic": 1, "class_logits": -1}.get(name)


def worst(differences: Mapping[str, Mapping[str, Any]], tolerance: Mapping[str, float]) -> str | None:
    """The output that exceeds the tolerance most; None if none does."""

    def excess(name: str) -> float:
        difference = differences[name]
        return max((difference[key] or 0.0) / limit for key, limit in tolerance.items())

    name = max(differences, key=excess)
    return name if not excess(name) <= 1 else None


def describe(name: str, difference: Mapping[str, Any]) -> str:
    """One line about one output."""
    labels = "" if difference["labels"] is None else f", {100 * difference['labels']:.3g} % of the labels"
    objects = "" if difference["objects"] is None else f", {100 * difference['objects']:.3g} % of the {_parts(name)}"
    return f"{name}: {difference['absolute']:.2g}, relative {difference['relative']:.2g}{labels}{objects}"


def _parts(name: str) -> str:
    return "pixels in other segments" if name == "ids" else "objects found by one alone"
