"""The matching of single images against COCOeval's own, where coordinates are so coarse that IoUs are often equal."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from metrics.coco_matching import LOWEST, THRESHOLDS, match, objects_of, ranked, unpacked
from structures import Instances

SIZE = 128, 128
KINDS = ("bbox", "segm")


def random_instances(rng: np.random.Generator, number: int, scored: bool) -> Instances:
    """Boxes at a few places and of a few sizes, filled by their masks; half of the objects at the limits of areas."""
    xywh = np.concatenate([rng.choice([0, 8, 16], (number, 2)), rng.choice([16, 32, 96], (number, 2))], axis=1)
    masks = np.zeros((*SIZE, number), np.uint8, order="F")
    for index, (x, y, w, h) in enumerate(xywh):
        masks[y : y + h, x : x + w, index] = 1
    instances = Instances(
        boxes=torch.zeros(number, 4),
        labels=torch.from_numpy(rng.choice([0, 1, 1, 2], number)),
        xywh=torch.from_numpy(xywh.astype(np.float64)),
        rles=[rle["counts"] for rle in coco_mask.encode(masks)],
    )
    if scored:
        instances.scores = torch.from_numpy(rng.choice([0.2, 0.5, 0.5, 0.9], number))
    else:
        areas = rng.choice([32**2 - 1, 32**2, 32**2 + 1, 96**2, 96**2 + 1, 5], number)
        instances.areas = torch.from_numpy(np.where(rng.random(number) < 0.5, areas, xywh[:, 2] * xywh[:, 3]) * 1.0)
        instances.crowd = torch.from_numpy(rng.random(number) < 0.2)
    return instances


def by_pycocotools(objects: Instances, detections: Instances, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are matched, and ignored, two [A, T, D], class by class; also adds its IoUs to `seen`."""
    evaluator = COCOeval(iouType=kind)
    for instances, records in ((objects, evaluator._gts), (detections, evaluator._dts)):
        for index, label in enumerate(instances.labels.tolist()):
            records[0, label].append(record(instances, index, kind))
    parts = []
    for label in sorted({label for _, label in evaluator._dts}):
        evaluator.ious[0, label] = evaluator.computeIoU(0, label)
        results = [evaluator.evaluateImg(0, label, area, 100) for area in evaluator.params.areaRng]
        parts.append(np.array([(result["dtMatches"] != 0, result["dtIgnore"]) for result in results], bool))
    matched, ignored = np.concatenate(parts, axis=3).swapaxes(0, 1)
    return matched, ignored


def record(instances: Instances, index: int, kind: str) -> dict[str, Any]:
    """An object or a detection as COCOeval wants it."""
    assert instances.xywh is not None
    assert instances.rles is not None
    box = instances.xywh[index].tolist()
    crowd = instances.crowd is not None and bool(instances.crowd[index])
    return {
        "id": index + 1,
        "bbox": box,
        "segmentation": {"size": list(SIZE), "counts": instances.rles[index]},
        "area": box[2] * box[3] if instances.areas is None else float(instances.areas[index]),
        "score": 0 if instances.scores is None else float(instances.scores[index]),
        "iscrowd": crowd,
        "ignore": crowd,
    }


def example(seed: int) -> tuple[Instances, Instances]:
    """Objects and detections of one image: few, some, or more than the 100 per class that count."""
    rng = np.random.default_rng(seed)
    return random_instances(rng, int(rng.choice([1, 6, 25])), False), random_instances(
        rng, int(rng.choice([1, 8, 40, 300])), True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_matches_equal_those_of_pycocotools_in_all_cases(kind: Any) -> None:
    for seed in range(25):
        objects, detections = example(seed)
        rows = ranked(detections)
        flags = match(objects_of(detections, kind, SIZE, rows), objects_of(objects, kind, SIZE))
        for found, expected in zip(unpacked(flags), by_pycocotools(objects, detections, kind), strict=True):
            assert found.shape == (len(LOWEST), len(THRESHOLDS), len(rows))
            assert np.array_equal(found, expected)


def test_the_examples_have_the_hard_cases() -> None:
    seen: Counter[str] = Counter()
    for seed in range(25):
        objects, detections = example(seed)
        assert objects.xywh is not None
        assert detections.xywh is not None
        ious = coco_mask.iou(detections.xywh.numpy(), objects.xywh.numpy(), objects.crowd.numpy())
        same = detections.labels.numpy()[:, None] == objects.labels.numpy()
        best = np.where(same, ious, 0).max(axis=1, keepdims=True)
        seen["tie"] += int(((ious == best) & same & (best > 0.5)).sum(axis=1).max() > 1)
        seen["on a threshold"] += int(np.isin(ious, THRESHOLDS).any())
        seen["more than 100"] += max(np.bincount(detections.labels)) > 100
    assert min(seen["tie"], seen["on a threshold"], seen["more than 100"]) > 3


def test_detections_come_by_class_and_score_and_at_most_a_hundred_of_a_class() -> None:
    detections = random_instances(np.random.default_rng(0), 500, True)
    labels, scores = detections.labels.tolist(), detections.scores.tolist()
    by_class = defaultdict(list)
    for row in sorted(range(500), key=lambda row: -scores[row]):
        by_class[labels[row]].append(row)
    assert ranked(detections).tolist() == [row for label in sorted(by_class) for row in by_class[label][:100]]
