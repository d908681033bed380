"""COCO average precision and recall for boxes and masks, from pycocotools' own COCOeval (Lin et al., ECCV 2014).

COCOeval keeps a whole data set in memory. Here it matches one image at a time, and only what its accumulation needs is
kept, 22 bytes per detection. The values equal COCOeval's to the last digit, for any order of the images.

Boundary AP (Cheng et al., CVPR 2021) is that of masks, with the smaller of the IoUs of two masks and of their
boundaries. With crowds only the masks are compared.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval
from pydantic import Field

from config import Schema
from errors import UserError
from metrics.base import Metric
from metrics.boundary import BoundaryRatio, boundary_rles
from metrics.distributed import gather_objects, sum_over_processes
from structures import DatasetInfo, Instances, Prediction, Size, Target, image_sort_key

Kind = Literal["bbox", "segm"]
ScoredKind = Literal["bbox", "segm", "boundary"]
KINDS: dict[str, tuple[Kind, ...]] = {"detection": ("bbox",), "instance": ("bbox", "segm")}  # by task
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")  # in COCOeval's order

Annotations = defaultdict[tuple[int, int], list[dict[str, Any]]]  # by (image, class), as COCOeval keeps them


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
    """COCOeval's matches for the D detections of one image, by label and then by descending score.

    labels: [D] int32. scores: [D] float64. flags: [D, 10] uint8, packed bits of [area range, matched or ignored, IoU].
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
        self.primary = f"{kinds[0]}/AP"
        # kind -> image id -> matches
        self._matches: dict[ScoredKind, dict[str, Matches]] = {kind: {} for kind in kinds}
        # Positives: objects to detect, by kind, class and area range. Objects: all except crowds, by class.
        self._positives = np.zeros((len(kinds), len(classes), len(_evaluator("bbox").params.areaRng)), np.int64)
        self._objects = np.zeros(len(classes), np.int64)
        self._accumulated: dict[ScoredKind, COCOeval] = {}
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

    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Add detected and true `instances`: boxes and, for segm, rles. ValueError if an image was added before."""
        self._accumulated = {}
        for prediction, target in zip(predictions, targets, strict=True):
            assert prediction.instances is not None
            assert target.instances is not None
            for kind, matches, positives in zip(self._kinds, self._matches.values(), self._positives, strict=True):
                if target.image_id in matches:
                    raise ValueError(f"image {target.image_id} was scored before")
                objects, detections = (
                    _annotations(instances, kind, target.size, self._boundary_ratio)
                    for instances in (target.instances, prediction.instances)
                )
                matches[target.image_id] = _match(kind, objects, detections, positives)
            labels = [label for label, crowd in _labels_and_crowd(target.instances) if not crowd]
            self._objects += np.bincount(labels, minlength=len(self._classes))

    def gather(self) -> None:
        """Give every process the matches of all processes. ValueError if two of them scored the same image."""
        self._accumulated = {}
        self._positives = sum_over_processes(self._positives)
        self._objects = sum_over_processes(self._objects)
        for kind in self._kinds:
            parts = gather_objects(self._matches[kind])
            merged = {image_id: matches for part in parts for image_id, matches in part.items()}
            if len(merged) < sum(map(len, parts)):
                raise ValueError("two processes scored the same image")
            self._matches[kind] = merged

    def compute(self) -> dict[str, float]:
        """The twelve values of COCOeval for each kind. Raises UserError if no object is annotated."""
        if self._objects.sum() == 0:
            raise UserError("validation set", "no object is annotated", "check the annotations")
        stats = [value for kind in self._kinds for value in self._evaluate(kind).stats]
        return {name: _percent(value) for name, value in zip(self.names, stats, strict=True)}

    def per_class(self) -> list[dict[str, Any]]:
        """class, AP and AP50 of each kind in percent (None: no objects), and the number of objects except crowds."""
        records: list[dict[str, Any]] = [{"class": name} for name in self._classes]
        for kind in self._kinds:
            precision = self._evaluate(kind).eval["precision"][:, :, :, 0, -1]  # all areas, 100 detections
            for label, record in enumerate(records):
                for stat, values in (("AP", precision[:, :, label]), ("AP50", precision[0, :, label])):
                    value = _percent(values.flatten().mean())  # either all values of a class are -1 or none
                    record[f"{kind}/{stat}"] = None if np.isnan(value) else value
        return [{**record, "objects": int(count)} for record, count in zip(records, self._objects, strict=True)]

    def _evaluate(self, kind: ScoredKind) -> COCOeval:
        """An evaluator that has accumulated and summarised all matches.

        Classes are independent, so they are accumulated one at a time, each with only the images that have detections
        of it. The images are in pycocotools' order, which decides between equal scores.
        """
        if kind in self._accumulated:
            return self._accumulated[kind]
        images = [self._matches[kind][image_id] for image_id in sorted(self._matches[kind], key=image_sort_key)]
        image_rows = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
        labels, scores, flags = (np.concatenate(parts) for parts in zip(_no_matches(), *images, strict=True))
        by_class = np.argsort(labels, kind="stable")
        limits = np.searchsorted(labels[by_class], np.arange(len(self._classes) + 1))
        results = []
        with redirect_stdout(StringIO()):
            for positives, (start, end) in zip(self._positives[self._kinds.index(kind)], pairwise(limits), strict=True):
                rows = by_class[start:end]
                ends = np.flatnonzero(np.diff(image_rows[rows])) + 1  # of each image except the last
                results.append(_accumulate(kind, positives, scores[rows], flags[rows], ends))
            evaluator = _evaluator(kind)
            evaluator.eval = {
                "precision": np.concatenate([result["precision"] for result in results], axis=2),
                "recall": np.concatenate([result["recall"] for result in results], axis=1),
            }
            evaluator.summarize()
        self._accumulated[kind] = evaluator
        return evaluator


def _evaluator(kind: ScoredKind) -> COCOeval:
    """COCOeval with the standard parameters, for a data set with one image, 0, and one class, 0."""
    evaluator = COCOeval(iouType="segm" if kind == "boundary" else kind)
    evaluator.params.imgIds = evaluator.params.catIds = [0]
    return evaluator


def _match(kind: ScoredKind, objects: Annotations, detections: Annotations, positives: np.ndarray) -> Matches:
    """Match the detections of one image, and add its objects to `positives` [class, area range] in place.

    Classes with neither objects nor detections are left out; COCOeval has no result for them either.
    """
    evaluator = _evaluator(kind)
    evaluator._gts, evaluator._dts = objects, detections
    max_detections = evaluator.params.maxDets[-1]
    parts = [_no_matches()]
    for image, label in sorted(objects.keys() | detections.keys()):
        evaluator.ious[image, label] = evaluator.computeIoU(image, label)
        if kind == "boundary" and objects[image, label] and detections[image, label]:
            evaluator.ious[image, label] = _with_boundaries(evaluator, image, label)
        results = [evaluator.evaluateImg(image, label, area, max_detections) for area in evaluator.params.areaRng]
        positives[label] += [np.count_nonzero(result["gtIgnore"] == 0) for result in results]
        scores = np.array(results[0]["dtScores"], np.float64)
        flags = np.array([(result["dtMatches"] != 0, result["dtIgnore"]) for result in results])
        bits = flags.reshape(np.prod(flags.shape[:3]), len(scores)).T
        parts.append(Matches(np.full(len(scores), label, np.int32), scores, np.packbits(bits, axis=1)))
    return Matches(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _with_boundaries(evaluator: COCOeval, image: int, label: int) -> np.ndarray:
    """The smaller of the IoUs of masks and of boundaries, [D, G], for one class; with crowds those of masks."""
    bands = _evaluator("boundary")
    for ours, theirs in ((bands._gts, evaluator._gts), (bands._dts, evaluator._dts)):
        ours[image, label] = [{**record, "segmentation": record["boundary"]} for record in theirs[image, label]]
    masks, crowd = evaluator.ious[image, label], [record["iscrowd"] for record in evaluator._gts[image, label]]
    return np.where(crowd, masks, np.minimum(masks, bands.computeIoU(image, label)))


def _accumulate(
    kind: ScoredKind, positives: np.ndarray, scores: np.ndarray, flags: np.ndarray, ends: np.ndarray
) -> dict[str, np.ndarray]:
    """COCOeval's precision and recall of one class, from the concatenated matches of its images.

    positives: [area range]. scores, flags: as in Matches. ends: where each image except the last ends.
    """
    evaluator = _evaluator(kind)
    params = evaluator._paramsEval = evaluator.params
    shape = (len(params.areaRng), 2, len(params.iouThrs), len(scores))
    bits = np.unpackbits(flags, axis=1, count=np.prod(shape[:3])).T.reshape(shape)
    none, empty = np.zeros(0), np.zeros((shape[2], 0))
    evaluator.evalImgs = []
    for area, count in enumerate(positives):
        # Only the number of objects matters, so one entry without detections stands for the objects of all images.
        evaluator.evalImgs.append(
            {"dtScores": none, "dtMatches": empty, "dtIgnore": empty, "gtIgnore": np.zeros(count)}
        )
        for image_scores, (matched, ignored) in zip(
            np.split(scores, ends), np.split(bits[area], ends, axis=2), strict=True
        ):
            evaluator.evalImgs.append(
                {"dtScores": image_scores, "dtMatches": matched, "dtIgnore": ignored, "gtIgnore": none}
            )
    params.imgIds = range(len(ends) + 2)
    evaluator.accumulate()
    return evaluator.eval


def _annotations(instances: Instances, kind: ScoredKind, size: Size, boundary_ratio: float) -> Annotations:
    """The objects or detections of one image, as COCOeval gets them from annotation files and from `loadRes`.

    Areas are the given ones, or else w * h of the boxes for bbox and the pixels of the masks for segm. Ids start from
    1, since 0 means unmatched to COCOeval.
    """
    shapes: Sequence[Any]
    if kind == "bbox":
        shapes = instances.coco_boxes().tolist()
    else:
        assert instances.rles is not None
        shapes = [{"size": list(size), "counts": counts} for counts in instances.rles]
    if instances.areas is not None:
        areas = instances.areas.tolist()
    elif kind == "bbox":
        areas = [w * h for _, _, w, h in shapes]
    else:
        areas = [int(coco_mask.area(shape)) for shape in shapes]  # pycocotools 2.0.11 fails on lists of more than 255
    scores = [0.0] * len(shapes) if instances.scores is None else instances.scores.tolist()
    key = "bbox" if kind == "bbox" else "segmentation"
    bands: list[dict[str, Any]] = [{} for _ in shapes]
    if kind == "boundary":
        assert instances.rles is not None
        found = boundary_rles(instances.rles, size, boundary_ratio)
        bands = [{"boundary": {"size": list(size), "counts": counts}} for counts in found]
    annotations: Annotations = defaultdict(list)
    for index, (label, crowd) in enumerate(_labels_and_crowd(instances)):
        annotations[0, label].append(
            {
                "id": index + 1,
                key: shapes[index],
                "area": areas[index],
                "iscrowd": crowd,
                "ignore": crowd,
                "score": scores[index],
                **bands[index],
            }
        )
    return annotations


def _labels_and_crowd(instances: Instances) -> list[tuple[int, bool]]:
    labels = instances.labels.tolist()
    crowd = [False] * len(labels) if instances.crowd is None else instances.crowd.tolist()
    return list(zip(labels, crowd, strict=True))


def _no_matches() -> Matches:
    return Matches(np.zeros(0, np.int32), np.zeros(0), np.zeros((0, 10), np.uint8))


def _percent(value: float) -> float:
    """The value in percent. COCOeval's -1, nothing to score, becomes NaN."""
    return float("nan") if value == -1 else 100 * float(value)
