"""Speed of COCO AP against pycocotools: `python -m benchmarks.evaluation.coco_ap`.

Random data like the official validation set: 80 classes, some of them frequent, 7 objects and 100 detections per image
of 640 x 480. Both get targets and predictions in memory and give the twelve numbers, which must be equal. Of
pycocotools only `evaluate`, `accumulate` and `summarize` are timed, not the loading of annotations and results; ours
computes areas and groups objects by class, which belongs to that loading, within its time.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.evaluation.command import run
from benchmarks.pairs import Row, compare
from metrics.coco_ap import CocoAP, Kind
from structures import Instances, Prediction, Size, Target

SIZE: Size = (480, 640)
CLASSES, OBJECTS, DETECTIONS = 80, 7, 100
FREQUENCIES = 1 / np.arange(1, CLASSES + 1)
VERTICES = 24  # of the polygons
GOALS: dict[Kind, float] = {"bbox": 3, "segm": 3}


def random_image(rng: np.random.Generator, name: str) -> tuple[Target, Prediction]:
    """Objects of a few classes; several detections of most of them, and others that are wrong."""
    present = rng.choice(CLASSES, 1 + rng.poisson(2), p=FREQUENCIES / FREQUENCIES.sum())
    objects = int(rng.poisson(OBJECTS))
    labels = rng.choice(present, objects)
    boxes, radii = random_boxes(rng, objects), rng.uniform(0.6, 1, (objects, VERTICES))
    copies = np.repeat(np.arange(objects), rng.poisson(1.2, objects))[: DETECTIONS // 2]
    others = DETECTIONS - len(copies)
    moved = boxes[copies] + rng.normal(0, 0.07, (len(copies), 4)) * boxes[copies][:, [2, 3, 2, 3]]
    shapes = radii[copies] * rng.uniform(0.9, 1.1, (len(copies), VERTICES))
    wrong = np.where(rng.random(others) < 0.5, rng.choice(present, others), rng.choice(CLASSES, others))
    scores = np.concatenate([rng.beta(4, 2, len(copies)), rng.beta(1, 8, others)])
    order = np.argsort(-scores)
    detected = np.concatenate([moved, random_boxes(rng, others)])[order]
    detected_radii = np.concatenate([shapes, rng.uniform(0.6, 1, (others, VERTICES))])[order]
    truth = instances(boxes, radii, labels)
    truth.crowd = torch.from_numpy(rng.random(objects) < 0.01)
    truth.areas = torch.tensor([coco_mask.area(rle(counts)) for counts in truth.rles or []], dtype=torch.float64)
    found = instances(detected, detected_radii, np.concatenate([labels[copies], wrong])[order])
    found.scores = torch.from_numpy(scores[order].astype(np.float32))
    return Target(name, SIZE, instances=truth), Prediction(instances=found)


def random_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """Boxes [N, 4], xywh, small and large ones equally often."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (number, 1))) * np.exp(rng.normal(0, 0.3, (number, 2)))
    sides = np.minimum(sides, [SIZE[1], SIZE[0]])
    return np.concatenate([rng.random((number, 2)) * ([SIZE[1], SIZE[0]] - sides), sides], axis=1)


def instances(boxes: np.ndarray, radii: np.ndarray, labels: np.ndarray) -> Instances:
    """Round objects in the boxes, whose outline has the given radii, as fractions of the box's, in all directions."""
    boxes = boxes.clip([0, 0, 2, 2], [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).round(2)
    angles = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centres, halves = boxes[:, None, :2] + boxes[:, None, 2:] / 2, boxes[:, None, 2:] / 2
    outlines = (centres + halves * radii[:, :, None] * directions).reshape(len(boxes), -1)
    rles = [coco_mask.frPyObjects([outline.tolist()], *SIZE)[0]["counts"] for outline in outlines]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return Instances(
        boxes=torch.from_numpy(corners).float(),
        labels=torch.from_numpy(labels.astype(np.int64)),
        xywh=torch.from_numpy(boxes),
        rles=rles,
    )


def rle(counts: bytes) -> dict[str, Any]:
    """COCO's run lengths of a mask."""
    return {"size": list(SIZE), "counts": counts}


def by_ours(kind: Kind, data: list[tuple[Target, Prediction]]) -> list[float]:
    """The twelve numbers in percent."""
    metric = CocoAP(("",) * CLASSES, (kind,))
    for target, prediction in data:
        metric.update([prediction], [target])
    return list(metric.compute().values())


def by_pycocotools(kind: Kind, data: list[tuple[Target, Prediction]]) -> Callable[[], list[float]]:
    """A function that computes the same by pycocotools."""
    truth = COCO()
    results = []
    truth.dataset = {
        "images": [{"id": int(target.image_id), "height": SIZE[0], "width": SIZE[1]} for target, _ in data],
        "categories": [{"id": label, "name": str(label)} for label in range(CLASSES)],
        "annotations": [],
    }
    for target, prediction in data:
        assert target.instances is not None
        assert prediction.instances is not None
        truth.dataset["annotations"] += records(target, target.instances)
        results += records(target, prediction.instances)
    for number, record in enumerate(truth.dataset["annotations"]):
        record["id"] = number + 1
    unwanted = "segmentation" if kind == "bbox" else "bbox"
    with redirect_stdout(StringIO()):
        truth.createIndex()
        found = truth.loadRes([{key: value for key, value in record.items() if key != unwanted} for record in results])

    def work() -> list[float]:
        with redirect_stdout(StringIO()):
            evaluator = COCOeval(truth, found, kind)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        return [float("nan") if value == -1 else 100 * float(value) for value in evaluator.stats]

    return work


def records(target: Target, objects: Instances) -> list[dict[str, Any]]:
    """The objects or detections of an image as in a COCO file."""
    columns: dict[str, list[Any]] = {
        "category_id": objects.labels.tolist(),
        "bbox": objects.coco_boxes().tolist(),
        "segmentation": [rle(counts) for counts in objects.rles or []],
        "iscrowd": [0] * len(objects.labels) if objects.crowd is None else objects.crowd.int().tolist(),
    }
    if objects.scores is not None:
        columns["score"] = objects.scores.tolist()
    if objects.areas is not None:
        columns["area"] = objects.areas.tolist()
    return [
        {"image_id": int(target.image_id)} | dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def measure(images: int, rounds: int) -> list[Row]:
    """Compare both on boxes and masks. Raises ValueError if the numbers differ in any digit."""
    rng = np.random.default_rng(0)
    data = [random_image(rng, str(number)) for number in range(images)]
    rows = []
    for kind, goal in GOALS.items():
        theirs = by_pycocotools(kind, data)
        if not np.array_equal(by_ours(kind, data), theirs(), equal_nan=True):
            raise ValueError(f"{kind}: the numbers differ")
        work = f"AP of {'boxes' if kind == 'bbox' else 'masks'}"
        ours = lambda kind=kind: by_ours(kind, data)  # noqa: E731 (bound now)
        rows.append(compare(work, "pycocotools", ours, theirs, goal=goal, rounds=rounds))
    return rows


def main() -> None:
    """Run the command."""
    run(__doc__, measure, images=500, rounds=3)


if __name__ == "__main__":
    main()
