"""Pictures of objects: boxes with class and score, and masks as colours over the image."""

from collections import Counter

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from pictures.canvas import (
    GREY,
    WHITE,
    WRITING_SIDE,
    Colour,
    as_tuple,
    blend,
    enlarge,
    label_size,
    palette,
    shade,
    stripes,
    write_label,
)
from pictures.segments import edges
from structures import DatasetInfo, Instances

Corners = tuple[int, int, int, int]  # x1, y1, x2, y2
Rectangle = tuple[int, int, int, int]  # left, top, width, height

LOWEST_SCORE = 0.5
MOST = 40  # objects in a panel; more would hide each other


def instance_panels(
    image: np.ndarray, truth: Instances | None, prediction: Instances, info: DatasetInfo
) -> tuple[dict[str, np.ndarray], dict[str, Colour]]:
    """Panels, already enlarged, and legend for an image [H, W, 3] and objects at its size.

    Detections below LOWEST_SCORE are left out; crowds are hatched in grey.
    """
    panels: dict[str, np.ndarray] = {}
    shown: set[int] = set()
    if truth is not None:
        order = _largest(truth)
        panels["true objects" + _left_out(order, len(truth.labels), "largest")] = draw_objects(
            image, truth, order, info
        )
        shown |= {int(truth.labels[index]) for index in order if not _is_crowd(truth, index)}
    assert prediction.scores is not None
    likely = int((prediction.scores >= LOWEST_SCORE).sum())
    order = prediction.scores.nan_to_num(-1).argsort(stable=True, descending=True)[: min(likely, MOST)].tolist()
    title = f"detections, score >= {LOWEST_SCORE}" + _left_out(order, likely, "best")
    panels[title] = draw_objects(image, prediction, order[::-1], info)
    shown |= set(prediction.labels[order].tolist())
    colours = palette(info.num_classes)
    return panels, {info.classes[label]: as_tuple(colours[label]) for label in sorted(shown)}


def draw_largest(image: np.ndarray, truth: Instances, info: DatasetInfo) -> np.ndarray:
    """The enlarged image with its largest objects, at most MOST."""
    return draw_objects(image, truth, _largest(truth), info)


def _largest(objects: Instances) -> list[int]:
    return _areas(objects).argsort(stable=True, descending=True)[:MOST].tolist()


def draw_objects(image: np.ndarray, instances: Instances, order: list[int], info: DatasetInfo) -> np.ndarray:
    """The enlarged image with masks, boxes and labels of the objects in `order`, the last one on top."""
    colours = palette(info.num_classes)
    picture, owners = _overlay_masks(image, instances, order, colours)
    picture = enlarge(picture, WRITING_SIDE)
    height, width = picture.shape[:2]
    scale = max(1, min(height, width) / WRITING_SIDE)
    factor = height // image.shape[0]
    picture[edges(owners.repeat(factor, axis=0).repeat(factor, axis=1), round(scale))] = WHITE
    thickness = round(1.5 * scale)
    boxes = instances.boxes.double().nan_to_num() * (height // image.shape[0])
    limits = torch.tensor([width - 1, height - 1] * 2)
    corners = torch.minimum(boxes.round().clamp(min=0), limits).int().tolist()
    for index in order:
        x1, y1, x2, y2 = corners[index]
        colour = GREY if _is_crowd(instances, index) else as_tuple(colours[instances.labels[index]])
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
    taken: list[Rectangle] = []
    for index in reversed(order):  # labels of the objects on top are placed first
        text = info.classes[int(instances.labels[index])]
        if instances.scores is not None:
            text += f" {float(instances.scores[index]):.2f}"
        colour = as_tuple(colours[instances.labels[index]])
        if _is_crowd(instances, index):
            text, colour = f"{text}, crowd", GREY
        _place_label(picture, text, corners[index], colour, 0.4 * scale, taken)
    return picture


def _overlay_masks(
    image: np.ndarray, instances: Instances, order: list[int], colours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The image blended with the masks, smaller ones over larger ones, and the object on top of each pixel, [H, W].

    The latter is -1 where no object has a mask, and for crowds. Masks are decoded one at a time.
    """
    picture, owners = image.copy(), np.full(image.shape[:2], -1, np.int32)
    areas = _areas(instances)
    used: Counter[int] = Counter()
    for index in sorted(order, key=lambda index: -float(areas[index])):
        label = int(instances.labels[index])
        region = _mask(instances, index, image.shape)
        if _is_crowd(instances, index):
            region = _box_mask(instances, index, image.shape) if region is None else region
            picture[region & stripes(image.shape)] = GREY
        elif region is not None:
            picture[region] = blend(picture[region], shade(colours[label], used[label]), 0.5)
            owners[region] = index
            used[label] += 1
    return picture, owners


def _place_label(
    picture: np.ndarray, text: str, box: Corners, colour: Colour, size: float, taken: list[Rectangle]
) -> None:
    """Write a label above, below or inside its box, at the first place where it does not hide another label.

    taken: the rectangles of the labels so far; the new one is added.
    """
    width, height = label_size(text, size)
    x1, y1, x2, y2 = box
    tops = [y1 - height, y1, y2, y2 - height, *range(y1 + height, max(y2 - height, y1 + height), height)]
    places = [(left, top) for top in tops for left in (x1, x2 - width, (x1 + x2 - width) // 2)]
    places = [_move_inside(place, (width, height), picture.shape) for place in places]
    free = (place for place in places if not any(_overlap((*place, width, height), other) for other in taken))
    left, top = next(free, places[0])
    taken.append((left, top, width, height))
    write_label(picture, text, (left, top), colour, size)


def _move_inside(place: tuple[int, int], size: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """The place (left, top) of a label of (width, height), moved so that the label is inside a picture of `shape`."""
    return max(0, min(place[0], shape[1] - size[0])), max(0, min(place[1], shape[0] - size[1]))


def _overlap(first: Rectangle, second: Rectangle) -> bool:
    """Whether two rectangles overlap."""
    return all(
        first[axis] < second[axis] + second[axis + 2] and second[axis] < first[axis] + first[axis + 2]
        for axis in (0, 1)
    )


def _left_out(order: list[int], possible: int, kind: str) -> str:
    """The part of a title that tells how many objects are shown, if not all are."""
    return f" ({len(order)} {kind} of {possible})" if len(order) < possible else ""


def _is_crowd(instances: Instances, index: int) -> bool:
    return instances.crowd is not None and bool(instances.crowd[index])


def _areas(instances: Instances) -> torch.Tensor:
    """The areas of the boxes in pixels, [N]."""
    sides = instances.boxes[:, 2:] - instances.boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _mask(instances: Instances, index: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """The mask of an object, [H, W] bool; None if it has none."""
    if instances.rles is not None:
        return coco_mask.decode({"size": list(shape[:2]), "counts": instances.rles[index]}).astype(bool)
    return None if instances.masks is None else instances.masks[index].cpu().numpy()


def _box_mask(instances: Instances, index: int, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape[:2], bool)
    x1, y1, x2, y2 = instances.boxes[index].clamp(min=0).round().int().tolist()
    mask[y1:y2, x1:x2] = True
    return mask
