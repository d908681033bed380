"""Pictures of panoptic maps: segments with names, in shades of their class colours, and pixels of wrong segments."""

from collections import Counter

import numpy as np

from pictures.canvas import (
    BLACK,
    GREY,
    ORANGE,
    WRITING_SIDE,
    Colour,
    as_tuple,
    blend,
    enlarge,
    palette,
    shade,
    stripes,
)
from pictures.segments import name_segments
from pictures.semantic import mark_wrong_pixels
from structures import IGNORE, DatasetInfo, Panoptic


def panoptic_panels(
    image: np.ndarray, truth: Panoptic | None, prediction: Panoptic, info: DatasetInfo
) -> tuple[dict[str, np.ndarray], dict[str, Colour]]:
    """Panels, already enlarged, and legend for an image [H, W, 3] and panoptic maps at its size.

    A predicted object that matches a true one has the same shade. Crowds are hatched in grey, void in black. Errors are
    pixels of a wrong class (red) and, outside crowds, pixels of the right class but a wrong object (orange); void is
    black in that panel.
    """
    panels = {} if truth is None else {"truth": draw_truth_segments(image, truth, info)}
    numbers = _number_objects(prediction, info) if truth is None else _match_numbers(truth, prediction, info)
    panels["prediction"] = draw_segments(image, prediction, numbers, info)
    if truth is not None:
        errors = _mark_errors(image, truth, prediction, numbers, info)
        panels["errors: class red, object orange"] = enlarge(errors, WRITING_SIDE)
    maps = [_to_map(panoptic, panoptic.labels) for panoptic in (truth, prediction) if panoptic is not None]
    colours = palette(info.num_classes)
    legend = {info.classes[label]: as_tuple(colours[label]) for label in np.unique(maps) if label != IGNORE}
    return panels, legend | ({"void": BLACK} if np.min(maps) == IGNORE else {})


def draw_truth_segments(image: np.ndarray, truth: Panoptic, info: DatasetInfo) -> np.ndarray:
    """The enlarged image with its true segments."""
    return draw_segments(image, truth, _number_objects(truth, info), info)


def draw_segments(image: np.ndarray, panoptic: Panoptic, numbers: dict[int, int], info: DatasetInfo) -> np.ndarray:
    """The enlarged image blended with its segments, with edges and names.

    numbers: by segment id, its number among the objects of its class, which selects the shade.
    """
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

    names = {}
    for segment, colour in shades.items():
        text = info.classes[panoptic.labels[segment]]
        crowd = panoptic.crowd.get(segment)
        names[segment] = (f"{text}, crowd", GREY) if crowd else (text, as_tuple(colour))
    return name_segments(small, ids, names)


def _number_objects(panoptic: Panoptic, info: DatasetInfo) -> dict[int, int]:
    """For each segment with pixels, by descending size, its number among the objects of its class; 0 for stuff."""
    pixels = Counter(_count_pixels(panoptic.ids.cpu().numpy()))
    used: Counter[int] = Counter()
    numbers = {}
    for segment, _ in pixels.most_common():
        if segment in panoptic.labels:
            label = panoptic.labels[segment]
            numbers[segment] = used[label]
            used[label] += info.things[label]
    return numbers


def _match_numbers(truth: Panoptic, panoptic: Panoptic, info: DatasetInfo) -> dict[int, int]:
    """Number the objects, but give an object the number of the true one that it overlaps most, if the classes agree.

    If several objects overlap a true one most, the largest gets its number; the others get numbers of no true object.
    """
    ids, true_ids = panoptic.ids.cpu().numpy(), truth.ids.cpu().numpy()
    true_numbers = _number_objects(truth, info)
    unused = Counter(truth.labels[segment] for segment in true_numbers)
    numbers: dict[int, int] = {}
    matched: set[int] = set()
    for segment in _number_objects(panoptic, info):
        label = panoptic.labels[segment]
        overlaps = _count_pixels(true_ids[ids == segment])
        match = max(overlaps, key=overlaps.__getitem__)
        if not info.things[label]:
            numbers[segment] = 0
        elif truth.labels.get(match) == label and match not in matched:
            numbers[segment] = true_numbers[match]
            matched.add(match)
        else:
            numbers[segment] = unused[label]
            unused[label] += 1
    return numbers


def _count_pixels(ids: np.ndarray) -> dict[int, int]:
    """The number of pixels of each id."""
    values, pixels = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def _mark_errors(
    image: np.ndarray, truth: Panoptic, prediction: Panoptic, numbers: dict[int, int], info: DatasetInfo
) -> np.ndarray:
    """The image in grey with wrong pixels marked. numbers: of the predicted segments."""
    true_labels, labels = _to_map(truth, truth.labels), _to_map(prediction, prediction.labels)
    errors = mark_wrong_pixels(image, true_labels, labels)
    crowd = _to_map(truth, {segment: int(flag) for segment, flag in truth.crowd.items()}) == 1
    other_object = _to_map(truth, _number_objects(truth, info)) != _to_map(prediction, numbers)
    wrong = (true_labels == labels) & other_object & ~crowd
    errors[wrong] = blend(errors[wrong], np.array(ORANGE), 0.7)
    return errors


def _to_map(panoptic: Panoptic, values: dict[int, int]) -> np.ndarray:
    """The value of each pixel's segment, [H, W] int16; IGNORE for segments without a value. values: by segment id."""
    ids = panoptic.ids.cpu().numpy()
    result = np.full(ids.shape, IGNORE, np.int16)
    for segment, value in values.items():
        result[ids == segment] = value
    return result
