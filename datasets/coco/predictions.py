"""Detections on disk: one COCO results file, as COCO's tools and its evaluation server read it."""

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from datasets.base import PredictionFiles
from datasets.coco.masks import area_of, encode
from datasets.coco.results import ImageId, ResultFile, image_id_of, stored_image_id
from datasets.coco.values import box_of, id_number, is_number
from errors import UserError
from structures import Instances, Prediction, Size, Target, image_sort_key

REQUIRED_KEYS = ("image_id", "category_id", "score")
ADVICE_COMPLETE = "write COCO results, with the category ids of the data and a bbox or a segmentation each"
ADVICE_BOXES_ONLY = "write masks too, or score the boxes only: data.masks=false"


@dataclass(frozen=True)
class StoredResults:
    """The M records of a file. by_image: the rows of each image's records, in the order of the file.

    labels: [M] int64. scores: [M] float64. xywh: [M, 4] float64; None if the file has no boxes.
    segmentations: M segmentations as in the file; None if they are not needed.
    """

    by_image: dict[ImageId, list[int]]
    labels: torch.Tensor
    scores: torch.Tensor
    xywh: torch.Tensor | None
    segmentations: list[Any] | None


class CocoFiles(PredictionFiles):
    """A JSON array of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}, and "segmentation" with masks.

    path: a .json file, or the folder of predictions.json. category_ids: the category id of each label. An image id of
    decimal digits is written as a number. Numbers are written with all their digits, so that scoring the file gives
    exactly the metrics of the predictions.
    """

    def __init__(self, path: Path, category_ids: tuple[int, ...], masks: bool) -> None:
        self._file = ResultFile(path)
        self._category_ids = category_ids
        self._labels = {category_id: label for label, category_id in enumerate(category_ids)}
        self._masks = masks
        self._results: StoredResults | None = None
        self._requested: set[ImageId] = set()

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, prediction: Prediction, target: Target) -> None:
        """Store `prediction.instances`: boxes, labels, scores and, with masks, rles.

        Raises UserError if the file cannot be written, a number is not finite, or two images have the same id.
        """
        assert prediction.instances is not None
        image_id = image_id_of(target.image_id)
        self._file.check_new(image_id)
        try:
            records = [json.dumps(item, allow_nan=False) for item in self._records(prediction.instances, target)]
        except ValueError:
            self._file.discard()
            what = f"image {image_id} has a predicted box or score that is not finite"
            raise UserError(self._file.path, what, "use other weights: these have diverged") from None
        self._file.add(image_id, records)

    def finish(self) -> None:
        """Merge the records of all processes into one file. If that is impossible, all of them raise UserError."""
        self._results = None
        self._file.finish()

    def _records(self, instances: Instances, target: Target) -> list[dict[str, Any]]:
        assert instances.scores is not None
        columns = {
            "category_id": [self._category_ids[label] for label in instances.labels.tolist()],
            "bbox": instances.coco_boxes().tolist(),
            "score": instances.scores.tolist(),
        }
        if self._masks:
            assert instances.rles is not None
            size = list(target.size)
            columns["segmentation"] = [{"size": size, "counts": counts.decode()} for counts in instances.rles]
        image_id = image_id_of(target.image_id)
        return [
            {"image_id": image_id, **dict(zip(columns, values, strict=True))}
            for values in zip(*columns.values(), strict=True)
        ]

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, target: Target) -> Prediction:
        """An image's detections: boxes, labels, scores and xywh float64 as in the file, rles with masks.

        There may be none. If the file has no boxes, each box encloses its mask and areas are those of the masks, as in
        pycocotools. The first call reads the whole file. Raises UserError if the file is missing or any record
        malformed.
        """
        results = self._load()
        image_id = image_id_of(target.image_id)
        self._requested.add(image_id)
        rows = results.by_image.get(image_id, [])
        xywh, areas, rles = None, None, None
        if results.segmentations is not None:
            rles = [self._counts(results.segmentations[row], row, target.size) for row in rows]
        if results.xywh is not None:
            xywh = results.xywh[rows]
        else:
            masks = [{"size": list(target.size), "counts": counts} for counts in rles or ()]
            xywh = torch.from_numpy(coco_mask.toBbox(masks)) if masks else torch.zeros(0, 4, dtype=torch.float64)
            areas = torch.tensor([area_of(counts, target.size) for counts in rles or ()], dtype=torch.float64)
        boxes = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1).float()
        return Prediction(
            instances=Instances(
                boxes=boxes,
                labels=results.labels[rows],
                scores=results.scores[rows],
                xywh=xywh,
                areas=areas,
                rles=rles if self._masks else None,
            )
        )

    def stored_id(self, image_id: str) -> ImageId:
        """The id as a number if it consists of digits, whatever their number: 1 and 01 are one id."""
        return image_id_of(image_id)

    def unread(self) -> list[str]:
        """Ids of images in the file that no `read` has asked for."""
        return [
            str(image_id) for image_id in sorted(self._load().by_image.keys() - self._requested, key=image_sort_key)
        ]

    def _load(self) -> StoredResults:
        if self._results is None:
            records = self._file.read()
            if not isinstance(records, list):
                do = "name a file of COCO results, not one of annotations"
                raise UserError(self._file.path, "is not a list of results", do)
            has_boxes = not records or (isinstance(records[0], dict) and records[0].get("bbox", []) != [])
            by_image: dict[ImageId, list[int]] = {}
            labels = []
            for row, record in enumerate(records):
                image_id, label = self._checked(record, row, has_boxes)
                rows = by_image.setdefault(image_id, [])
                if rows and not _same_spelling(record["image_id"], first := records[rows[0]]["image_id"]):
                    what = f"image_id {record['image_id']!r} is the number of {first!r} in record {rows[0] + 1}"
                    raise self._malformed(row, what, "give every image one id, and write it in one way")
                rows.append(row)
                labels.append(label)
            xywh = np.array([record["bbox"] for record in records] if has_boxes else [], np.float64).reshape(-1, 4)
            self._results = StoredResults(
                by_image,
                torch.tensor(labels, dtype=torch.int64),
                torch.tensor([record["score"] for record in records], dtype=torch.float64),
                torch.from_numpy(xywh) if has_boxes else None,
                [record["segmentation"] for record in records] if self._masks or not has_boxes else None,
            )
        return self._results

    def _checked(self, record: Any, row: int, has_boxes: bool) -> tuple[ImageId, int]:
        """Image id and label of a record. Raises UserError if anything in it is malformed."""
        if not isinstance(record, dict):
            raise self._malformed(row, f"{reprlib.repr(record)} is not a mapping with image_id, category_id, ..")
        needed = [
            *REQUIRED_KEYS,
            *(["bbox"] if has_boxes else []),
            *(["segmentation"] if self._masks or not has_boxes else []),
        ]
        for key in needed:
            if record.get(key) in (None, []):
                boxes_only = key == "segmentation" and has_boxes
                raise self._malformed(row, f"has no {key}", ADVICE_BOXES_ONLY if boxes_only else ADVICE_COMPLETE)
        raw_id, raw_category, score = (record[key] for key in REQUIRED_KEYS)
        image_id, category_id = stored_image_id(raw_id), id_number(raw_category)
        if image_id is None:
            raise self._malformed(row, f"image_id {reprlib.repr(raw_id)} is neither an integer nor a text")
        if category_id is None or category_id not in self._labels:
            what = f"category_id {reprlib.repr(raw_category)} is not one of {reprlib.repr(self._category_ids)}"
            raise self._malformed(row, what)
        if not is_number(score):
            raise self._malformed(row, f"score {reprlib.repr(score)} is not a finite number")
        if has_boxes:
            try:
                box_of(record)
            except ValueError as error:
                raise self._malformed(row, str(error)) from None
        return image_id, self._labels[category_id]

    def _counts(self, segmentation: Any, row: int, size: Size) -> bytes:
        try:
            return encode(segmentation, size)
        except ValueError as error:
            raise self._malformed(row, str(error)) from None

    def _malformed(self, row: int, what: str, do: str = ADVICE_COMPLETE) -> UserError:
        return UserError(f"{self._file.path}: record {row + 1}", what, do)


def _same_spelling(first: Any, second: Any) -> bool:
    """Whether two ids of one image can be meant as one: "12", 12 and 12.0 can, "012" and "12" may be two file names."""
    texts = [value if isinstance(value, str) else str(int(value)) for value in (first, second)]
    return texts[0] == texts[1]
