"""Pictures of predictions, one row of panels per image, and of annotations alone, for every task."""

import numpy as np

from pictures.canvas import SMALLEST_SIDE, WRITING_SIDE, Colour, as_tuple, enlarge, palette, tile
from pictures.depth import depth_panels, draw_depth
from pictures.instances import draw_largest, instance_panels
from pictures.panoptic import draw_truth_segments, panoptic_panels
from pictures.semantic import draw_classes, overlay_classes, semantic_panels
from pictures.shrink import Shrinker
from structures import DatasetInfo, Prediction, Target


def draw(image: np.ndarray, prediction: Prediction, target: Target | None, info: DatasetInfo) -> np.ndarray:
    """An RGB picture, uint8, of an image [H, W, 3] uint8, its prediction and, if given, its ground truth.

    Its panels have at most shrink.LONGEST_PANEL pixels on their longer side.
    """
    shrinker = Shrinker((image.shape[0], image.shape[1]))
    image, prediction = shrinker.image(image), shrinker.labels(prediction)
    target = None if target is None else shrinker.labels(target)
    panels, legend = _panels(image, prediction, target, info)
    smallest_side = SMALLEST_SIDE if prediction.depth is not None else WRITING_SIDE
    return tile({name: enlarge(panel, smallest_side) for name, panel in ({"image": image} | panels).items()}, legend)


def draw_prediction(image: np.ndarray, prediction: Prediction, info: DatasetInfo) -> np.ndarray:
    """The prediction alone, drawn over the image [H, W, 3] uint8 as in `draw`, without title and legend."""
    shrinker = Shrinker((image.shape[0], image.shape[1]))
    panels, _ = _panels(shrinker.image(image), shrinker.labels(prediction), None, info)
    return enlarge(list(panels.values())[-1], WRITING_SIDE)


def _panels(
    image: np.ndarray, prediction: Prediction, target: Target | None, info: DatasetInfo
) -> tuple[dict[str, np.ndarray], dict[str, Colour]]:
    """The panels of whatever the prediction has, those with names enlarged, and the legend."""
    panels: dict[str, np.ndarray] = {}
    legend: dict[str, Colour] = {}
    if prediction.semantic is not None:
        truth = None if target is None or target.semantic is None else target.semantic.cpu().numpy()
        more, colours = semantic_panels(image, truth, prediction.semantic.cpu().numpy(), info)
        panels |= more
        legend |= colours
    if prediction.instances is not None:
        objects = None if target is None else target.instances
        more, colours = instance_panels(image, objects, prediction.instances, info)
        panels |= more
        legend |= colours
    if prediction.panoptic is not None:
        segments = None if target is None else target.panoptic
        more, colours = panoptic_panels(image, segments, prediction.panoptic, info)
        panels |= more
        legend |= colours
    if prediction.depth is not None:
        truth = None if target is None or target.depth is None else target.depth.cpu().numpy()
        more, colours = depth_panels(truth, prediction.depth.cpu().numpy())
        panels |= more
        legend |= colours
    return panels, legend


def draw_truth(image: np.ndarray, target: Target, info: DatasetInfo) -> np.ndarray:
    """The image [H, W, 3] uint8 with its annotation drawn over it, or the depth map alone; enlarged if it is small.

    A target with a semantic map and objects, as panoptic training has, shows both. Its size is limited as in `draw`.
    """
    shrinker = Shrinker((image.shape[0], image.shape[1]))
    image, target = shrinker.image(image), shrinker.labels(target)
    if target.depth is not None:
        return enlarge(draw_depth(target.depth.cpu().numpy()))
    if target.panoptic is not None:
        return draw_truth_segments(image, target.panoptic, info)
    if target.semantic is None:
        return enlarge(image) if target.instances is None else draw_largest(image, target.instances, info)
    semantic = target.semantic.cpu().numpy()
    if target.instances is None:
        return draw_classes(image, semantic, info)
    return draw_largest(overlay_classes(image, semantic, info), target.instances, info)


def class_colours(info: DatasetInfo) -> dict[str, Colour]:
    """The colour of each class in these pictures."""
    return {name: as_tuple(colour) for name, colour in zip(info.classes, palette(info.num_classes), strict=True)}
