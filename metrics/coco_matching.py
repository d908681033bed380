"""COCOeval's matching of the detections of one image (Lin et al., ECCV 2014), for all cases at once.

A case is a range of areas and an IoU threshold. Bit A * T + t of an integer stands for range A and threshold t of T, so
one integer says in which cases an object is taken, or a detection matched. In each case the detections choose in order
of their scores: the free object with the largest IoU that reaches the threshold, of equal ones the last; an object that
is ignored in that case only if there is no other. Crowds are always ignored and always free.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import Params

from metrics.boundary import boundary_rles
from structures import Instances, Size

Rle = dict[str, Any]  # COCO's run lengths of a mask
ScoredKind = Literal["bbox", "segm", "boundary"]

PARAMS = Params("bbox")  # COCOeval's, the same for masks
MAX_DETECTIONS: int = PARAMS.maxDets[-1]  # of a class in an image
THRESHOLDS = np.minimum(PARAMS.iouThrs, 1 - 1e-10)  # [T], ascending
LOWEST, HIGHEST = np.array(PARAMS.areaRng).T  # [A] each, both included
CASES = len(LOWEST) * len(THRESHOLDS)
ALL = (1 << CASES) - 1
CASE_BYTES = -(-CASES // 8)
FLAG_BYTES = 2 * CASE_BYTES
AREA_BATCH = 255  # pycocotools 2.0.11 fails on more masks


def _cases(areas: range, thresholds: int) -> int:
    """The cases of these ranges of areas and the lowest thresholds."""
    return sum(((1 << thresholds) - 1) << (area * len(THRESHOLDS)) for area in areas)


OF_AREA = np.array([_cases(range(area, area + 1), len(THRESHOLDS)) for area in range(len(LOWEST))])
REACHED = np.array([_cases(range(len(LOWEST)), number) for number in range(len(THRESHOLDS) + 1)])  # by number


class Objects(NamedTuple):
    """Objects of one image, or detections of one image in the order of `ranked`.

    labels: [N] int64. shapes: boxes [N, 4] float64, xywh, or N masks as COCO's run lengths. areas: [N] float64.
    crowd: [N] bool.
    """

    labels: np.ndarray
    shapes: Any
    areas: np.ndarray
    crowd: np.ndarray

    @property
    def outside(self) -> np.ndarray:
        """Of which ranges of areas each is outside: bool [N, A]."""
        return (self.areas[:, None] < LOWEST) | (self.areas[:, None] > HIGHEST)

    def shapes_at(self, rows: np.ndarray) -> Any:
        """Some of the shapes."""
        return self.shapes[rows] if isinstance(self.shapes, np.ndarray) else [self.shapes[row] for row in rows.tolist()]


def scores_of(detections: Instances) -> np.ndarray:
    """The scores [N] float64."""
    assert detections.scores is not None
    return detections.scores.double().numpy()


def ranked(instances: Instances) -> np.ndarray:
    """The rows of the detections that count, by label and then by descending score; equal scores keep their order."""
    labels = instances.labels.numpy()
    rows = np.argsort(-scores_of(instances), kind="stable")
    rows = rows[np.argsort(labels[rows], kind="stable")]
    labels = labels[rows]
    return rows[np.arange(len(rows)) - np.searchsorted(labels, labels) < MAX_DETECTIONS]


def objects_of(instances: Instances, kind: ScoredKind, size: Size, rows: np.ndarray | None = None) -> Objects:
    """Some rows of `instances`, or all, with boxes for bbox and masks for the others.

    Areas are the given ones, or else w * h of the boxes or the pixels of the masks.
    """
    rows = np.arange(len(instances.labels)) if rows is None else rows
    labels = instances.labels.numpy()[rows]
    crowd = np.zeros(len(rows), bool) if instances.crowd is None else instances.crowd.numpy()[rows]
    areas = None if instances.areas is None else instances.areas.double().numpy()[rows]
    if kind == "bbox":
        boxes = instances.coco_boxes().numpy()[rows]
        return Objects(labels, boxes, boxes[:, 2] * boxes[:, 3] if areas is None else areas, crowd)
    assert instances.rles is not None
    masks = [{"size": list(size), "counts": instances.rles[row]} for row in rows.tolist()]
    if areas is None:
        batches = [masks[start : start + AREA_BATCH] for start in range(0, len(masks), AREA_BATCH)]
        areas = np.concatenate([np.zeros(0), *map(coco_mask.area, batches)])
    return Objects(labels, masks, areas, crowd)


def match(found: Objects, true: Objects, boundary_ratio: float | None = None) -> np.ndarray:
    """In which cases each of the D detections is matched, and in which it is ignored: [D, FLAG_BYTES] uint8.

    boundary_ratio: compare the boundaries of masks too, of this width as a fraction of the image diagonal.
    """
    flags = np.zeros((len(found.labels), 2), "<i8")
    true_ignored = np.where(true.crowd, ALL, true.outside @ OF_AREA)
    for label in set(found.labels.tolist()).intersection(true.labels.tolist()):
        rows, columns = np.flatnonzero(found.labels == label), np.flatnonzero(true.labels == label)
        crowd = true.crowd[columns]
        shapes = found.shapes_at(rows), true.shapes_at(columns)
        ious = coco_mask.iou(*shapes, crowd)
        if boundary_ratio is not None:
            ious = _with_boundaries(ious, *shapes, crowd, boundary_ratio)
        for row, *cases in _matches_of_class(ious, true_ignored[columns].tolist(), crowd.tolist()):
            flags[rows[row]] = cases
    flags[:, 1] |= (found.outside @ OF_AREA) & ~flags[:, 0]
    return flags.view(np.uint8).reshape(-1, 2, 8)[:, :, :CASE_BYTES].reshape(-1, FLAG_BYTES)


def unpacked(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In which cases each detection is matched, and ignored: two bool [A, T, D]."""
    bits = np.unpackbits(flags.reshape(-1, 2, CASE_BYTES), axis=2, count=CASES, bitorder="little").view(bool)
    by_case = np.ascontiguousarray(bits.transpose(1, 2, 0))
    matched, ignored = by_case.reshape(2, len(LOWEST), len(THRESHOLDS), len(flags))
    return matched, ignored


def _matches_of_class(ious: np.ndarray, ignored: list[int], crowd: list[bool]) -> Iterator[tuple[int, int, int]]:
    """Match D detections, best first, and G objects of one class with IoUs [D, G].

    ignored: the cases where each object is. Yields the row of each detection with matches, the cases where it has one,
    and those where that object is ignored.
    """
    rows, columns = np.nonzero(ious >= THRESHOLDS[0])
    values = ious[rows, columns]
    order = np.lexsort((-columns, -values, rows))  # the object that each prefers comes first
    reached = REACHED[np.searchsorted(THRESHOLDS, values, side="right")]
    taken = [0] * len(crowd)
    pairs = zip(rows[order].tolist(), columns[order].tolist(), reached[order].tolist(), strict=True)
    for row, candidates in groupby(pairs, key=itemgetter(0)):
        matched, others = 0, []
        for _, column, cases in candidates:
            possible = cases & ~taken[column]
            others.append((column, possible & ignored[column]))
            chosen = possible & ~ignored[column] & ~matched
            taken[column] |= chosen
            matched |= chosen
        on_ignored = 0
        for column, possible in others:
            chosen = possible & ~matched & ~on_ignored
            taken[column] |= 0 if crowd[column] else chosen
            on_ignored |= chosen
        yield row, matched | on_ignored, on_ignored


def _with_boundaries(
    ious: np.ndarray, found: Sequence[Rle], true: Sequence[Rle], crowd: np.ndarray, ratio: float
) -> Any:
    """The smaller of the IoUs of masks [D, G] and of their boundaries; with crowds those of masks.

    Boundaries are found only where masks could match, since the others cannot match with a smaller IoU.
    """
    near = (ious >= THRESHOLDS[0]) & ~crowd
    rows, columns = near.any(axis=1).nonzero()[0], near.any(axis=0).nonzero()[0]
    if len(rows):
        bands = [_bands(masks, at, ratio) for masks, at in ((found, rows), (true, columns))]
        pairs = np.ix_(rows, columns)
        ious[pairs] = np.minimum(ious[pairs], coco_mask.iou(*bands, np.zeros(len(columns))))
    return ious


def _bands(masks: Sequence[Rle], rows: np.ndarray, ratio: float) -> list[Rle]:
    """The boundaries of some masks."""
    size = masks[0]["size"]
    counts = boundary_rles([masks[row]["counts"] for row in rows.tolist()], size, ratio)
    return [{"size": size, "counts": band} for band in counts]
