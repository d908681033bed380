"""Pictures of predictions, for people: one row of panels per image, whatever the task."""

import numpy as np

from pictures.canvas import enlarge, tile
from pictures.semantic import semantic_panels
from structures import DatasetInfo, Prediction, Target


def draw(image: np.ndarray, prediction: Prediction, target: Target | None, info: DatasetInfo) -> np.ndarray:
    """An RGB picture, uint8, of an image [H, W, 3] uint8, its prediction and, if known, the truth."""
    panels = {"image": image}
    legend: dict[str, tuple[int, int, int]] = {}
    if prediction.semantic is not None:
        truth = None if target is None or target.semantic is None else target.semantic.cpu().numpy()
        more, legend = semantic_panels(image, truth, prediction.semantic.cpu().numpy(), info)
        panels |= more
    return tile({name: enlarge(panel) for name, panel in panels.items()}, legend)
