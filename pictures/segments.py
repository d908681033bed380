"""Segments of a picture, of panoptic or semantic maps: white edges between them, and their names inside."""

import cv2
import numpy as np

from pictures.canvas import WHITE, WRITING_SIDE, Colour, enlarge, label_size, write_label

LEAST_INSIDE = 0.6  # share of a label's area that must be on its segment; smaller segments are named in the legend only


def name_segments(picture: np.ndarray, ids: np.ndarray, names: dict[int, tuple[str, Colour]]) -> np.ndarray:
    """The picture [H, W, 3], enlarged, with edges between the segments of `ids` [H, W], and names where they fit.

    names: by id, the text and its background; the first are placed first.
    """
    picture = enlarge(picture, WRITING_SIDE)
    factor = picture.shape[0] // ids.shape[0]
    ids = ids.repeat(factor, axis=0).repeat(factor, axis=1)
    scale = max(1, min(ids.shape) / WRITING_SIDE)
    picture[edges(ids, round(scale))] = WHITE
    taken = np.zeros(ids.shape, np.uint8)
    for segment, (text, background) in names.items():
        width, height = label_size(text, 0.4 * scale)
        place = _find_place(ids == segment, taken, width, height)
        if place is not None:
            left, top = place
            taken[top : top + height, left : left + width] = 1
            write_label(picture, text, place, background, 0.4 * scale)
    return picture


def edges(ids: np.ndarray, thickness: int) -> np.ndarray:
    """The pixels whose right or lower neighbour is of another segment, [H, W] bool, dilated to `thickness`."""
    edges = np.zeros(ids.shape, np.uint8)
    edges[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edges[:-1] |= ids[:-1] != ids[1:]
    return cv2.dilate(edges, np.ones((thickness, thickness), np.uint8)).astype(bool)


def _find_place(region: np.ndarray, taken: np.ndarray, width: int, height: int) -> tuple[int, int] | None:
    """Left and top of a label on a segment [H, W], where it does not cover earlier labels; None if it does not fit.

    As much of the label as possible is on the segment; among such places, its centre is farthest from the edge.
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    top, left = max(rows[0] - height, 0), max(columns[0] - width, 0)
    window = slice(top, rows[-1] + height), slice(left, columns[-1] + width)
    part, hidden = region[window].astype(np.uint8), taken[window]
    if part.shape[0] < height or part.shape[1] < width:
        return None
    inside, covered = (_box_means(values, width, height) for values in (part, hidden))
    depth = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    depth = depth[height // 2 :, width // 2 :][: inside.shape[0], : inside.shape[1]]  # under the centre of the label
    score = np.where(covered == 0, inside + depth / max(part.shape) / 100, 0)
    y, x = np.unravel_index(score.argmax(), score.shape)
    return (left + int(x), top + int(y)) if inside[y, x] >= LEAST_INSIDE and covered[y, x] == 0 else None


def _box_means(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mean over every width x height rectangle inside the array, by its upper left corner."""
    sums = cv2.integral(values)
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return boxes / (width * height)
