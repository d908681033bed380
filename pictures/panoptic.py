"""Panoptic maps: segments in shades of their class colours with names, and where class or object are wrong."""

from collections import Counter

import cv2
import numpy as np

from pictures.canvas import (
    BLACK,
    GREY,
    ORANGE,
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
from pictures.semantic import wrong_pixels
from structures import IGNORE, DatasetInfo, Panoptic

LEAST_INSIDE = 0.6  # share of a label's area that must lie on its segment; names of smaller ones are left to the legend


def panoptic_panels(
    image: np.ndarray, truth: Panoptic | None, prediction: Panoptic, info: DatasetInfo
) -> tuple[dict[str, np.ndarray], dict[str, Colour]]:
    """Panels, enlarged already, and legend for an image [H, W, 3] and maps of its size.

    An object found again has its shade in the truth. Crowds are hatched in grey, void in black. Errors are pixels of
    another class and, outside crowds, those of another object of the right class; void is black there.
    """
    panels = {} if truth is None else {"truth": drawn(image, truth, _numbers(truth, info), info)}
    numbers = _numbers(prediction, info) if truth is None else _numbers_like(truth, prediction, info)
    panels["prediction"] = drawn(image, prediction, numbers, info)
    if truth is not None:
        errors = _errors(image, truth, prediction, numbers, info)
        panels["errors: class red, object orange"] = enlarge(errors, WRITING_SIDE)
    maps = [_map(panoptic, panoptic.labels) for panoptic in (truth, prediction) if panoptic is not None]
    colours = palette(info.num_classes)
    legend = {info.classes[label]: as_tuple(colours[label]) for label in np.unique(maps) if label != IGNORE}
    return panels, legend | ({"void": BLACK} if np.min(maps) == IGNORE else {})


def drawn(image: np.ndarray, panoptic: Panoptic, numbers: dict[int, int], info: DatasetInfo) -> np.ndarray:
    """The image under its segments, with edges and names; enlarged. numbers: which one of its class a segment is."""
    ids = panoptic.ids.cpu().numpy()
    colours = palette(info.num_classes)
    shades = {segment: shade(colours[panoptic.labels[segment]], number) for segment, number in numbers.items()}
    small = image.copy()
    hatched = stripes(ids.shape)
    void = hatched & ~np.isin(ids, list(numbers))
    small[void] = blend(image[void], np.array(BLACK))
    for segment, colour in shades.items():
        region = ids == segment
        small[region] = blend(image[region], colour)
        if panoptic.crowd.get(segment):
            small[region & hatched] = GREY

    picture = enlarge(small, WRITING_SIDE)
    factor = picture.shape[0] // image.shape[0]
    ids = ids.repeat(factor, axis=0).repeat(factor, axis=1)
    scale = max(1, min(ids.shape) / WRITING_SIDE)
    picture[_edges(ids, round(scale))] = WHITE
    taken = np.zeros(ids.shape, np.uint8)
    for segment in numbers:
        text, ground = info.classes[panoptic.labels[segment]], as_tuple(shades[segment])
        if panoptic.crowd.get(segment):
            text, ground = f"{text}, crowd", GREY
        width, height = label_size(text, 0.4 * scale)
        place = _place(ids == segment, taken, width, height)
        if place is not None:
            left, top = place
            taken[top : top + height, left : left + width] = 1
            write_label(picture, text, place, ground, 0.4 * scale)
    return picture


def _numbers(panoptic: Panoptic, info: DatasetInfo) -> dict[int, int]:
    """For each segment with pixels, larger ones first, which object of its class it is; 0 for stuff."""
    pixels = Counter(_counts(panoptic.ids.cpu().numpy()))
    used: Counter[int] = Counter()
    numbers = {}
    for segment, _ in pixels.most_common():
        if segment in panoptic.labels:
            label = panoptic.labels[segment]
            numbers[segment] = used[label]
            used[label] += info.things[label]
    return numbers


def _numbers_like(truth: Panoptic, panoptic: Panoptic, info: DatasetInfo) -> dict[int, int]:
    """The same, but an object has the number of the true one that it covers most, if this is of its class.

    Of several such the largest has it; the others have numbers that no true one has.
    """
    ids, true_ids = panoptic.ids.cpu().numpy(), truth.ids.cpu().numpy()
    true_numbers = _numbers(truth, info)
    unused = Counter(truth.labels[segment] for segment in true_numbers)
    numbers: dict[int, int] = {}
    found: set[int] = set()
    for segment in _numbers(panoptic, info):
        label = panoptic.labels[segment]
        covered = _counts(true_ids[ids == segment])
        twin = max(covered, key=covered.__getitem__)
        if not info.things[label]:
            numbers[segment] = 0
        elif truth.labels.get(twin) == label and twin not in found:
            numbers[segment] = true_numbers[twin]
            found.add(twin)
        else:
            numbers[segment] = unused[label]
            unused[label] += 1
    return numbers


def _counts(ids: np.ndarray) -> dict[int, int]:
    """Pixels of each id."""
    values, pixels = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def _errors(
    image: np.ndarray, truth: Panoptic, prediction: Panoptic, numbers: dict[int, int], info: DatasetInfo
) -> np.ndarray:
    """The image in grey with its errors; numbers: of the predicted segments."""
    true_labels, labels = _map(truth, truth.labels), _map(prediction, prediction.labels)
    errors = wrong_pixels(image, true_labels, labels)
    crowd = _map(truth, {segment: int(flag) for segment, flag in truth.crowd.items()}) == 1
    other = (true_labels == labels) & (_map(truth, _numbers(truth, info)) != _map(prediction, numbers)) & ~crowd
    errors[other] = blend(errors[other], np.array(ORANGE), 0.7)
    return errors


def _map(panoptic: Panoptic, values: dict[int, int]) -> np.ndarray:
    """What the segment of each pixel has, [H, W] int16; IGNORE where it has nothing."""
    ids = panoptic.ids.cpu().numpy()
    result = np.full(ids.shape, IGNORE, np.int16)
    for segment, value in values.items():
        result[ids == segment] = value
    return result


def _edges(ids: np.ndarray, thickness: int) -> np.ndarray:
    """[H, W] bool: the last pixels of segments before others, to the right and below."""
    edges = np.zeros(ids.shape, np.uint8)
    edges[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edges[:-1] |= ids[:-1] != ids[1:]
    return cv2.dilate(edges, np.ones((thickness, thickness), np.uint8)).astype(bool)


def _place(region: np.ndarray, taken: np.ndarray, width: int, height: int) -> tuple[int, int] | None:
    """Left and top of a label on a segment [H, W], off the labels before it; None if it does not fit.

    It lies as far inside the segment as can be, and there as far from its edge.
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    top, left = max(rows[0] - height, 0), max(columns[0] - width, 0)
    window = slice(top, rows[-1] + height), slice(left, columns[-1] + width)
    part, hidden = region[window].astype(np.uint8), taken[window]
    if part.shape[0] < height or part.shape[1] < width:
        return None
    inside, covered = (_means(values, width, height) for values in (part, hidden))
    depth = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    depth = depth[height // 2 :, width // 2 :][: inside.shape[0], : inside.shape[1]]  # under the centre of the label
    score = np.where(covered == 0, inside + depth / max(part.shape) / 100, 0)
    y, x = np.unravel_index(score.argmax(), score.shape)
    return (left + int(x), top + int(y)) if inside[y, x] >= LEAST_INSIDE and covered[y, x] == 0 else None


def _means(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Of every rectangle of that size inside the array, by its upper left corner."""
    sums = cv2.integral(values)
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return boxes / (width * height)
