"""How far the outputs of a runtime are from PyTorch's. Needs numpy only, so it runs on the target machine."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Of the largest difference, relative to the largest value of the output in PyTorch; and of the share of labels.
TOLERANCES = {"fp32": {"relative": 1e-4, "labels": 1e-3}, "fp16": {"relative": 3e-2, "labels": 2e-2}}


def compare(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """For each output: the largest "absolute" difference, the same "relative" to the largest value, and "labels".

    labels: the share of places whose label differs: of whole numbers, or the highest of class scores; None for others.
    An output that is missing, of another shape, or not finite where PyTorch's is differs by infinity.
    """
    return {name: _difference(name, found.get(name), value) for name, value in wanted.items()}


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
        labels = difference["labels"] or 0.0
        return max(difference["relative"] / tolerance["relative"], labels / tolerance["labels"])

    name = max(differences, key=excess)
    return name if not excess(name) <= 1 else None


def describe(name: str, difference: Mapping[str, Any]) -> str:
    """One line about one output."""
    labels = "" if difference["labels"] is None else f", {100 * difference['labels']:.3g} % of the labels"
    return f"{name}: {difference['absolute']:.2g}, relative {difference['relative']:.2g}{labels}"
