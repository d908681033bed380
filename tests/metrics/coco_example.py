"""Random COCO annotations and results, what pycocotools makes of them, and the same as targets and predictions."""

import copy
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from structures import DatasetInfo, Instances, Prediction, Target

CATEGORIES = (2, 3, 7, 44, 90)  # label = rank; 7 has no objects, 44 no detections, 90 neither
INFO = DatasetInfo("instance", "test", ("ant", "bee", "cow", "dog", "eel"))


@dataclass
class Example:
    """annotations: a COCO file. results: its records have both bbox and segmentation."""

    annotations: dict[str, Any]
    results: list[dict[str, Any]]

    def evaluated(self, kind: str, without: str | None = None) -> COCOeval:
        """By pycocotools alone, from results without the key `without`: by default the one that `kind` is not about."""
        without = without or ("bbox" if kind == "segm" else "segmentation")
        results = [{key: value for key, value in record.items() if key != without} for record in self.results]
        with redirect_stdout(StringIO()):
            truth = COCO()
            truth.dataset = copy.deepcopy(self.annotations)
            truth.createIndex()
            evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        return evaluator

    def targets(self) -> list[Target]:
        """In the file's order."""
        return [target(image, self.annotations["annotations"]) for image in self.annotations["images"]]

    def predictions(self) -> list[Prediction]:
        """For the images in the file's order, with the files' decimals."""
        return [prediction(image, self.results) for image in self.annotations["images"]]


def target(image: dict[str, Any], annotations: list[dict[str, Any]]) -> Target:
    """One image's annotations as a dataset gives them."""
    size = image["height"], image["width"]
    mine = [record for record in annotations if record["image_id"] == image["id"]]
    xywh = torch.tensor([record["bbox"] for record in mine], dtype=torch.float64).reshape(-1, 4)
    instances = Instances(
        boxes=torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1).float(),
        labels=torch.tensor([CATEGORIES.index(record["category_id"]) for record in mine], dtype=torch.int64),
        crowd=torch.tensor([bool(record["iscrowd"]) for record in mine], dtype=torch.bool),
        xywh=xywh,
        areas=torch.tensor([record["area"] for record in mine], dtype=torch.float64),
        rles=[counts(record["segmentation"], size) for record in mine],
    )
    return Target(str(image["id"]), size, instances=instances)


def counts(segmentation: Any, size: tuple[int, int]) -> bytes:
    """Compressed run lengths of a segmentation in any of COCO's forms."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))["counts"]
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)["counts"]
    return segmentation["counts"].encode()


def prediction(image: dict[str, Any], results: list[dict[str, Any]]) -> Prediction:
    """One image's results."""
    mine = [record for record in results if record["image_id"] == image["id"]]
    xywh = torch.tensor([record["bbox"] for record in mine], dtype=torch.float64).reshape(-1, 4)
    return Prediction(
        instances=Instances(
            boxes=torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1).float(),
            labels=torch.tensor([CATEGORIES.index(record["category_id"]) for record in mine], dtype=torch.int64),
            scores=torch.tensor([record["score"] for record in mine], dtype=torch.float64),
            xywh=xywh,
            rles=[record["segmentation"]["counts"].encode() for record in mine],
        )
    )


def random_example(seed: int, images: int = 20) -> Example:
    """Images with and without objects, crowds, equal scores, equal IoUs, sizes at the limits, crowded images."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(10**6, images, replace=False)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    sizes = {int(image_id): (int(rng.integers(100, 160)), int(rng.integers(100, 160))) for image_id in ids}
    for number, (image_id, size) in enumerate(sizes.items()):
        for _ in range(0 if number % 7 == 6 else rng.integers(1, 9)):
            bbox = _random_box(rng, size)
            record = {"image_id": image_id, "category_id": int(rng.choice([2, 2, 3, 44])), "bbox": bbox}
            record |= _random_form(rng, bbox, size) | {"id": len(annotations) + 1}
            annotations.append(record)
            for _ in range(rng.integers(0, 4)):
                near = np.round(np.array(bbox) + rng.choice([-2.5, 0, 0, 1, 4], 4), 1).clip([-9, -9, 1, 1])
                if rng.random() < 0.3:
                    near = np.array(bbox) * [1, 1, 1, rng.choice([0.5, 0.75])]  # an IoU on the threshold
                label = record["category_id"] if record["category_id"] != 44 and rng.random() < 0.9 else 7
                results.append(_result(rng, image_id, label, near.tolist(), size))
        for _ in range(130 if number % 5 == 3 else rng.integers(0, 3)):
            results.append(_result(rng, image_id, int(rng.choice([2, 2, 2, 3, 7])), _random_box(rng, size), size))
    rng.shuffle(results)  # type: ignore[arg-type]
    listed = [{"id": image_id, "height": size[0], "width": size[1]} for image_id, size in sizes.items()]
    categories = [{"id": number, "name": name} for number, name in zip(CATEGORIES, INFO.classes, strict=True)]
    return Example({"images": listed, "annotations": annotations, "categories": categories}, results)


def _random_box(rng: np.random.Generator, size: tuple[int, int]) -> list[float]:
    height, width = size
    side = rng.choice([8, 32, 60, 96])
    w, h = min(side * rng.choice([1, 1, 0.7]), width), min(side * rng.choice([1, 1, 1.3]), height)
    corner = rng.random(2) * [width - w, height - h]
    return [float(value) for value in np.round([*corner, w, h], rng.choice([0, 1, 2]))]


def _random_form(rng: np.random.Generator, bbox: list[float], size: tuple[int, int]) -> dict[str, Any]:
    x, y, w, h = bbox
    if rng.random() < 0.15:
        rle = _rectangle(bbox, size)
        runs = np.flatnonzero(np.diff(np.concatenate([[0], coco_mask.decode(rle).ravel(order="F"), [0]])))
        lengths = np.diff([0, *runs, size[0] * size[1]]).tolist()
        return {"segmentation": {"size": list(size), "counts": lengths}, "area": w * h, "iscrowd": 1}
    polygons = [[x, y, x + w, y, x + w, y + h, x, y + h / 2], [x, y + h / 2, x + w, y + h / 2, x + w, y + h, x, y + h]]
    area = rng.choice([w * h, 32**2, 96**2, 0.6 * w * h])
    return {"segmentation": polygons[: rng.integers(1, 3)], "area": float(area), "iscrowd": 0}


def _result(
    rng: np.random.Generator, image_id: int, category: int, bbox: list[float], size: tuple[int, int]
) -> dict[str, Any]:
    rle = _rectangle(bbox, size, striped=rng.random() < 0.3)
    score = float(rng.random() if rng.random() < 0.4 else rng.integers(1, 10) / 10)
    segmentation = {"size": list(size), "counts": rle["counts"].decode()}
    return {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score, "segmentation": segmentation}


def _rectangle(bbox: list[float], size: tuple[int, int], striped: bool = True) -> dict[str, Any]:
    x, y, w, h = (round(value) for value in bbox)
    mask = np.zeros(size, np.uint8, order="F")
    mask[max(y, 0) : max(y + h, 1), max(x, 0) : max(x + w, 1)] = 1
    if striped:
        mask[:: max(h // 3, 2)] = 0
    return coco_mask.encode(mask)
