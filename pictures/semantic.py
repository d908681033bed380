"""Pictures of semantic maps: classes as colours over the image, outlined and named, and the wrong pixels."""

import numpy as np

from pictures.canvas import BLACK, RED, Colour, as_tuple, blend, palette
from pictures.segments import name_segments
from structures import IGNORE, DatasetInfo


def semantic_panels(
    image: np.ndarray, truth: np.ndarray | None, prediction: np.ndarray, info: DatasetInfo
) -> tuple[dict[str, np.ndarray], dict[str, Colour]]:
    """Panels and legend for an image [H, W, 3] and label maps [H, W]; wrong pixels are red, unlabelled ones black.

    Those with names are enlarged already.
    """
    panels = {} if truth is None else {"truth": draw_classes(image, truth, info)}
    panels["prediction"] = draw_classes(image, prediction, info)
    if truth is not None:
        panels["errors"] = mark_wrong_pixels(image, truth, prediction)
    shown = np.unique(prediction if truth is None else np.stack([truth, prediction]))
    colours = palette(info.num_classes)
    return panels, {info.classes[label]: as_tuple(colours[label]) for label in shown if label != IGNORE}


def mark_wrong_pixels(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image in grey; pixels are red where the label maps [H, W] differ, and black where the truth has no label."""
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    wrong = (truth != prediction)[..., None]
    errors = np.where(wrong, blend(grey, np.array(RED), 0.7), grey)
    return np.where((truth == IGNORE)[..., None], np.array(BLACK), errors).astype(np.uint8)


def draw_classes(image: np.ndarray, labels: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """The enlarged image with its classes in colours, outlined and named; the largest ones are named first."""
    shown, pixels = np.unique(labels[labels != IGNORE], return_counts=True)
    colours = palette(info.num_classes)
    names = {int(label): (info.classes[label], as_tuple(colours[label])) for label in shown[np.argsort(-pixels)]}
    return name_segments(overlay_classes(image, labels, info), labels, names)


def overlay_classes(image: np.ndarray, labels: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """The image blended with the class colours of its labels; pixels without a label are not changed."""
    labelled = (labels != IGNORE)[..., None]
    return np.where(labelled, blend(image, palette(info.num_classes)[np.maximum(labels, 0)]), image)
