"""Panoptic predictions on disk: a JSON file and PNGs, as COCO's tools and its evaluation server read them."""

import json
from pathlib import Path

import numpy as np
import torch

from datasets.base import PredictionFiles
from datasets.coco.json_file import file_name_of
from datasets.coco.results import ImageId, ResultFile, image_id_of, stored_image_id, unwritable
from datasets.files.paths import problem_with
from datasets.panoptic.annotations import labelled_segments
from datasets.panoptic.ids import encode_ids, read_segment_map, unique_ids
from errors import UserError
from structures import Panoptic, Prediction, Target, image_sort_key

ADVICE_COMPLETE = "write COCO's panoptic results, with the category ids of the data"


class PanopticFiles(PredictionFiles):
    """{"annotations": [{"image_id", "file_name", "segments_info": [{"id", "category_id", "area"}]}]}, and the PNGs.

    path: a .json file, or the folder of predictions.json. The PNGs are in the folder beside it that has its name
    without .json; their names are the image ids, with 12 digits if they are numbers. category_ids: the category id of
    each label.
    """

    def __init__(self, path: Path, category_ids: tuple[int, ...]) -> None:
        self._file = ResultFile(path, head='{"annotations": ', tail="}")
        self._category_ids = category_ids
        self._labels = {category_id: label for label, category_id in enumerate(category_ids)}
        self._started = False
        self._results: dict[ImageId, tuple[str, dict[int, int]]] | None = None  # PNG name, labels by segment id
        self._requested: set[ImageId] = set()

    @property
    def _pngs(self) -> Path:
        return self._file.path.with_suffix("")

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, prediction: Prediction, target: Target) -> None:
        """Store `prediction.panoptic`. Raises UserError if a file cannot be written or two images have the same id.

        The first call removes an earlier JSON file, so that there is never an old one beside newer PNGs.
        """
        assert prediction.panoptic is not None
        image_id = image_id_of(target.image_id)
        self._file.check_new(image_id)
        ids = prediction.panoptic.ids.cpu().numpy()
        png = self._pngs / (f"{image_id:012d}.png" if isinstance(image_id, int) else f"{image_id}.png")
        record = {
            "image_id": image_id,
            "file_name": png.name,
            "segments_info": self._segments(prediction.panoptic.labels, ids),
        }
        try:
            if not self._started:
                self._pngs.mkdir(parents=True, exist_ok=True)
                self._file.path.unlink(missing_ok=True)
                self._started = True
            png.write_bytes(encode_ids(ids))
        except OSError as error:
            self._file.discard()
            raise unwritable(png, error) from None
        self._file.add(image_id, [json.dumps(record)])

    def finish(self) -> None:
        """Merge the records of all processes into one file. If that is impossible, all of them raise UserError."""
        self._started, self._results = False, None
        self._file.finish()

    def _segments(self, labels: dict[int, int], ids: np.ndarray) -> list[dict[str, int]]:
        values, indices = unique_ids(ids)
        areas = np.bincount(indices.ravel())
        return [
            {"id": number, "category_id": self._category_ids[labels[number]], "area": area}
            for number, area in zip(values.tolist(), areas.tolist(), strict=True)
            if number != 0
        ]

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, target: Target) -> Prediction:
        """An image's segments. The first call reads the whole JSON file; its areas and boxes are ignored.

        Raises UserError if the file is missing or any record malformed, if this image's record or PNG is missing, or if
        the PNG has the wrong size or wrong ids.
        """
        results, image_id = self._load(), image_id_of(target.image_id)
        self._requested.add(image_id)
        if image_id not in results:
            what = f"has no record of image {image_id}"
            raise UserError(self._file.path, what, "predict that image too; one without segments has an empty list")
        name, labels = results[image_id]
        path = self._pngs / name
        if problem := problem_with(path, "file"):
            raise UserError(path, problem, f"predict image {image_id}, or put the PNGs into {self._pngs}")
        where = f"image {image_id} of {self._file.path}"
        ids = read_segment_map(path, target.size, np.array(list(labels), np.int64), where).ids
        return Prediction(panoptic=Panoptic(torch.from_numpy(ids), labels))

    def stored_id(self, image_id: str) -> ImageId:
        """The id as a number if it consists of digits, whatever their number: 1 and 01 are one id."""
        return image_id_of(image_id)

    def unread(self) -> list[str]:
        """Ids of images in the file that no `read` has asked for."""
        return [str(image_id) for image_id in sorted(self._load().keys() - self._requested, key=image_sort_key)]

    def _load(self) -> dict[ImageId, tuple[str, dict[int, int]]]:
        if self._results is None:
            content = self._file.read()
            records = content.get("annotations") if isinstance(content, dict) else None
            if not isinstance(records, list):
                raise UserError(self._file.path, "has no list of annotations", ADVICE_COMPLETE)
            self._results = {}
            for number, record in enumerate(records):
                image_id = stored_image_id(record.get("image_id")) if isinstance(record, dict) else None
                if image_id is None:
                    raise UserError(f"{self._file.path}: annotations[{number}]", "has no image_id", ADVICE_COMPLETE)
                try:
                    if image_id in self._results:
                        raise ValueError("appears twice")
                    name, segments = file_name_of(record, None, "PNGs"), labelled_segments(record, self._labels)
                except ValueError as error:
                    raise UserError(f"{self._file.path}: image {image_id}", str(error), ADVICE_COMPLETE) from None
                self._results[image_id] = name, {segment.id: segment.label for segment in segments}
        return self._results
