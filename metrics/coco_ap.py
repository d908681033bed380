"""COCO average precision and recall for boxes and masks, as pycocotools' COCOeval (Lin et al., ECCV 2014).

COCOeval keeps a whole data set in memory. Here one image is matched at a time, and only what the accumulation needs is
kept: 12 bytes per detection, and 10 for each kind. The values equal COCOeval's to the last digit, for any order of the
images.

Boundary AP (Cheng et al., CVPR 2021) is that of masks, with the smaller of the IoUs of two masks and of their
boundaries. With crowds only the masks are compared.
"""

from importlib.metadata import version
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from config import Schema
from errors import UserError
from metrics.base import Metric
from metrics.boundary import BoundaryRatio
from metrics.coco_accumulation import Curves, accumulate
from metrics.coco_matching import FLAG_BYTES, LOWEST, ScoredKind, match, objects_of, ranked, scores_of
from metrics.distributed import gather_objects, sum_over_processes
from structures import DatasetInfo, Instances, Prediction, Size, Target, image_sort_key

Kind = Literal["bbox", "segm"]
KINDS: dict[str, tuple[Kind, ...]] = {"detection": ("bbox",), "instance": ("bbox", "segm")}  # by task
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")  # in COCOeval's order


class CocoAPConfig(Schema):
    """kinds: what to score, boxes (bbox) or masks (segm) or both; None: all that the data have.

    boundary: also score masks by their boundaries. boundary_ratio: the width of boundaries as a fraction of the image
    diagonal.
    """

    name: Literal["coco_ap"] = "coco_ap"
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = None
    boundary: bool = False
    boundary_ratio: BoundaryRatio = 0.02

    def build(self, info: DatasetInfo) -> "CocoAP":
        """The metric for the classes of `info`. Raises UserError if the task does not have objects of these kinds."""
        possible = KINDS.get(info.task, ())
        if not possible:
            what = f"{info.name} is {info.task} data, which has no separate objects"
            raise UserError("metrics.coco_ap", what, "choose a metric of its task")
        for kind in self.kinds or ():
            if kind not in possible:
                what = f"{kind} is not possible, since {info.name} is {info.task} data"
                raise UserError("metrics.coco_ap.kinds", what, f"use {', '.join(possible)}")
        if self.boundary and "segm" not in possible:
            what = f"boundaries are those of masks, and {info.name} is {info.task} data"
            raise UserError("metrics.coco_ap.boundary", what, "set data.masks=true, or metrics.coco_ap.boundary=false")
        kinds: list[ScoredKind] = [kind for kind in possible if kind in (self.kinds or possible)]
        return CocoAP(info.classes, (*kinds, *(("boundary",) if self.boundary else ())), self.boundary_ratio)


class Matches(NamedTuple):
    """The D detections of one image that count, by label and then by descending score.

    labels: [D] int32. scores: [D] float64. flags: [D, kinds, FLAG_BYTES] uint8, see `match`.
    """

    labels: np.ndarray
    scores: np.ndarray
    flags: np.ndarray


class CocoAP(Metric):
    """AP and AR in percent, named KIND/STAT, such as "bbox/AP50"; NaN where the data set has nothing to score."""

    def __init__(self, classes: tuple[str, ...], kinds: tuple[ScoredKind, ...], boundary_ratio: float = 0.02) -> None:
        self._classes = classes
        self._kinds = kinds
        self._boundary_ratio = boundary_ratio
        self.names = tuple(f"{kind}/{stat}" for kind in kinds for stat in STATS)
        self.primary = "segm/AP" if "segm" in kinds else f"{kinds[0]}/AP"
        self._matches: dict[str, Matches] = {}  # by image id
        # Positives: objects to detect, by kind, class and area range. Objects: all except crowds, by class.
        self._positives = np.zeros((len(kinds), len(classes), len(LOWEST)), np.int64)
        self._objects = np.zeros(len(classes), np.int64)
        self._curves: dict[ScoredKind, Curves] = {}
        self.protocol: dict[str, Any] = {
            "AP": (
                f"COCOeval of pycocotools {version('pycocotools')}: mean over classes with objects, IoU 0.50:0.05:0.95 "
                "and 101 recalls, 100 detections per image and class; AP50, AP75 at one IoU"
            ),
            "AR": "recall at the lowest score, mean over classes and IoU; 1, 10 or 100 detections per image and class",
            "object_sizes": (
                "s below 32², m below 96² pixels, else l: of objects the annotated area; of detections, which count "
                "if matched or of that size, w * h of the box for bbox and the pixels of the mask for segm"
            ),
        }
        if "segm" in kinds:
            self.protocol["segm"] = (
                "results are taken without their boxes: with them, pycocotools would take the area of the box for that "
                "of the mask, which changes the numbers by size"
            )

        if "boundary" in kinds:
            self.protocol["boundary"] = (
                "as segm, with the smaller of mask IoU and boundary IoU, and mask IoU alone with crowds; as "
                "boundary-iou-api"
            )
            self.protocol["boundary_ratio"] = boundary_ratio

    @property
    def headline(self) -> tuple[str, ...]:
        """The first three values of each kind, without those by size of the object."""
        return tuple(f"{kind}/{stat}" for kind in self._kinds for stat in STATS[:3])

    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Add detected and true `instances`: boxes and, for segm, rles. ValueError if an image was added before."""
        self._curves = {}
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.instances is not None
            assert target.instances is not None
            if target.image_id in self._matches:
                raise ValueError(f"image {target.image_id} was scored before")
            self._matches[target.image_id] = self._match(prediction.instances, target.instances, target.size)

    def gather(self) -> None:
        """Give every process the matches of all processes. ValueError if two of them scored the same image."""
        self._curves = {}
        self._positives = sum_over_processes(self._positives)
        self._objects = sum_over_processes(self._objects)
        parts = gather_objects(self._matches)
        self._matches = {image_id: matches for part in parts for image_id, matches in part.items()}
        if len(self._matches) < sum(map(len, parts)):
            raise ValueError("two processes scored the same image")

    def compute(self) -> dict[str, float]:
        """The twelve values of COCOeval for each kind. Raises UserError if no object is annotated."""
        if self._objects.sum() == 0:
            raise UserError("validation set", "no object is annotated", "check the annotations")
        stats = [value for kind in self._kinds for value in self._accumulate(kind).stats()]
        return {name: _percent(value) for name, value in zip(self.names, stats, strict=True)}

    def per_class(self) -> list[dict[str, Any]]:
        """class, AP and AP50 of each kind in percent (None: no objects), and the number of objects except crowds."""
        records: list[dict[str, Any]] = [{"class": name} for name in self._classes]
        for kind in self._kinds:
            precision = self._accumulate(kind).precision[:, :, :, 0]  # all areas
            for label, record in enumerate(records):
                for stat, values in (("AP", precision[:, :, label]), ("AP50", precision[0, :, label])):
                    value = _percent(values.flatten().mean())  # either all values of a class are -1 or none
                    record[f"{kind}/{stat}"] = None if np.isnan(value) else value
        return [{**record, "objects": int(count)} for record, count in zip(records, self._objects, strict=True)]

    def _match(self, detections: Instances, objects: Instances, size: Size) -> Matches:
        """Match the detections of one image, and count its objects."""
        rows = ranked(detections)
        flags = np.zeros((len(rows), len(self._kinds), FLAG_BYTES), np.uint8)
        for index, kind in enumerate(self._kinds):
            found, true = objects_of(detections, kind, size, rows), objects_of(objects, kind, size)
            flags[:, index] = match(found, true, self._boundary_ratio if kind == "boundary" else None)
            np.add.at(self._positives[index], true.labels, ~true.crowd[:, None] & ~true.outside)
        np.add.at(self._objects, true.labels, ~true.crowd)
        return Matches(found.labels.astype(np.int32), scores_of(detections)[rows], flags)

    def _accumulate(self, kind: ScoredKind) -> Curves:
        """Precision and recall from all matches, with the images in pycocotools' order."""
        if kind not in self._curves:
            index = self._kinds.index(kind)
            images = [self._matches[image_id] for image_id in sorted(self._matches, key=image_sort_key)]
            numbers = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
            none = Matches(np.zeros(0, np.int32), np.zeros(0), np.zeros((0, len(self._kinds), FLAG_BYTES), np.uint8))
            labels, scores, flags = (np.concatenate(parts) for parts in zip(none, *images, strict=True))
            self._curves[kind] = accumulate(self._positives[index], labels, scores, numbers, flags[:, index])
        return self._curves[kind]


def _percent(value: float) -> float:
    """The value in percent. COCOeval's -1, nothing to score, becomes NaN."""
    return float("nan") if value == -1 else 100 * float(value)
