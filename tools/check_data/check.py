"""Check the data of one experiment: open its splits, read everything, and compare what was read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.base import DenseDataset, Survey
from datasets.files.folders import evenly_spread
from datasets.workers import BatchLoader
from errors import UserError
from experiment import Experiment
from structures import DatasetInfo
from tools.check_data.findings import (
    DUPLICATE_PICTURE,
    EMPTY_CLASS,
    EMPTY_IMAGE,
    LEAK,
    ODD_VALUES,
    SPLITS,
    UNUSABLE_DATA,
    WITHOUT_ENTRY,
    Finding,
    SplitName,
    finding_of,
    in_order,
    kind_of,
)
from tools.check_data.reading import Reader
from tools.check_data.tally import Tally

GROUP = 8  # images that a worker reads before it answers
SURVEYED = 2000  # images of each split whose values are judged together


@dataclass
class Split:
    """One split that could be opened. survey: None if nothing could be surveyed."""

    name: SplitName
    dataset: DenseDataset
    tally: Tally
    survey: Survey | None = None

    def file(self, index: int) -> Path:
        """The file of an image."""
        return self.dataset.files(index)[0]


@dataclass
class Report:
    """What was found. source: the configuration. splits: those that could be opened."""

    source: str
    info: DatasetInfo
    splits: dict[SplitName, Split] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code: 0 sound, 1 with findings that training survives, 2 with findings that stop it."""
        return 2 if any(finding.stops for finding in self.findings) else int(bool(self.findings))

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "config": self.source,
            "task": self.info.task,
            "dataset": self.info.name,
            "exit_code": self.code,
            "splits": {name: self._split_record(split) for name, split in self.splits.items()},
            "kinds": dict(Counter(finding.kind for finding in self.findings)),
            "findings": [finding.record() for finding in self.findings],
        }

    def _split_record(self, split: Split) -> dict[str, Any]:
        tally, survey = split.tally, split.survey
        counts = zip(tally.images.tolist(), tally.objects.tolist(), tally.pixels.tolist(), strict=True)
        return {
            "images": len(split.dataset),
            "read": int(tally.read.sum()),
            "classes": {
                name: {"images": images, "objects": objects, "pixels": pixels}
                for name, (images, objects, pixels) in zip(self.info.classes, counts, strict=True)
            },
            **tally.facts(),
            "left_out": {} if survey is None else {reason: n for reason, n in survey.left_out.items() if n},
        }


def check(experiment: Experiment, source: str, splits: Sequence[SplitName] = SPLITS, workers: int = 0) -> Report:
    """Check the data of `experiment`, whose configuration file is `source`. workers: processes; 0: this one.

    The result does not depend on the number of workers. Raises UserError if no split can be opened, or a worker dies.
    """
    report = Report(source, experiment.data.info)
    opened: dict[SplitName, DenseDataset] = {}
    errors: list[UserError] = []
    # What cannot be used is listed here instead of stopping at the first, whatever training does.
    data = experiment.data.model_copy(update={"on_error": "skip"})
    for name in SPLITS:
        try:
            opened[name] = data.build(name)
        except UserError as error:
            if name in splits:
                errors.append(error)
                report.findings.append(finding_of(error, name, stops=True, kind=UNUSABLE_DATA))
    if not opened.keys() & set(splits):
        raise errors[0]
    stops = experiment.data.on_error == "stop"
    for name in splits:
        if name in opened:
            dataset = opened[name]
            split = report.splits[name] = Split(name, dataset, Tally(dataset.info, len(dataset)))
            report.findings += [finding_of(error, name, stops) for error in dataset.unusable]
            report.findings += _read(split, workers)
            report.findings += [finding_of(error, name, False, image) for image, error in dataset.doubts()]
            report.findings += _survey(split)
            report.findings += _empty(split, source)
            report.findings += _duplicates(split)
    report.findings += _leaks(report.splits)
    known = {finding.file for finding in report.findings}
    report.findings += [item for item in _unnamed(opened, splits) if item.file not in known]
    report.findings = in_order(report.findings)
    return report


def _read(split: Split, workers: int) -> Iterator[Finding]:
    """Read all images into the tally."""
    count = len(split.dataset)
    groups = [range(start, min(start + GROUP, count)) for start in range(0, count, GROUP)]
    reader = Reader(split.dataset, split.name == "val")
    loader = BatchLoader(
        reader, groups, min(workers, len(groups)) if len(groups) > 1 else 0, workers_setting="--workers"
    )
    for reading in tqdm(loader, total=count, unit="image", desc=split.name, disable=None):
        if reading.error is None:
            split.tally.add(reading)
        else:
            yield finding_of(reading.error, split.name, stops=True, image=reading.index)


def _survey(split: Split) -> list[Finding]:
    """What the values of many images show together, among those that can be read."""
    sound = np.flatnonzero(split.tally.read).tolist()
    if not sound:
        return []
    try:
        split.survey = split.dataset.survey([sound[row] for row in evenly_spread(len(sound), SURVEYED)])
    except UserError as error:
        return [finding_of(error, split.name, stops=True, kind=kind_of(error.args[1], ODD_VALUES))]
    where = str(split.dataset.files(sound[0])[-1].parent)
    do = "see whether the files and the configuration mean the same"
    kinds = [(kind_of(warning, ODD_VALUES), warning) for warning in split.survey.warnings]
    # Empty classes are counted below; only their likely cause is of interest here.
    kinds = [(kind, warning) for kind, warning in kinds if kind != EMPTY_CLASS or "if " in warning]
    return [Finding(split.name, kind, where, warning, do, stops=False) for kind, warning in kinds]


def _empty(split: Split, source: str) -> Iterator[Finding]:
    """Classes that no image has, and images without a single pixel that counts."""
    tally, info = split.tally, split.dataset.info
    empty = [name for name, images in zip(info.classes, tally.images.tolist(), strict=True) if not images]
    if empty and tally.read.any():
        what = f"no image of {split.name} has {len(empty)} of {len(info.classes)} classes: {', '.join(empty)}"
        yield Finding(
            split.name, EMPTY_CLASS, source, what, "take them out of data.classes, or add images", stops=False
        )
    if info.task in ("semantic", "panoptic", "depth"):
        unit = "a depth in range" if info.task == "depth" else "a class"
        for index in np.flatnonzero(tally.read & (tally.labelled == 0)).tolist():
            what = f"no pixel of it has {unit}"
            do = "see whether the annotation is the right one, or remove both files"
            file = str(split.dataset.files(index)[-1])
            yield Finding(split.name, EMPTY_IMAGE, file, what, do, stops=False, image=index)


def _duplicates(split: Split) -> Iterator[Finding]:
    """Images that have the pixels of an earlier one."""
    first: dict[bytes, int] = {}
    for index in np.flatnonzero(split.tally.read).tolist():
        earlier = first.setdefault(split.tally.digests[index].tobytes(), index)
        if split.file(earlier) != split.file(index):  # two entries of one file are another finding
            what = f"has the same pixels as {split.file(earlier)}"
            do = "remove one of them, the one with the worse annotation"
            yield Finding(split.name, DUPLICATE_PICTURE, str(split.file(index)), what, do, stops=False, image=index)


def _leaks(splits: dict[SplitName, Split]) -> Iterator[Finding]:
    """Validation images that are also training images."""
    if len(splits) < len(SPLITS):
        return
    train, val = splits["train"], splits["val"]
    known = {train.tally.digests[index].tobytes(): index for index in np.flatnonzero(train.tally.read).tolist()}
    for index in np.flatnonzero(val.tally.read).tolist():
        twin = known.get(val.tally.digests[index].tobytes())
        if twin is not None:
            what = f"has the same pixels as the training image {train.file(twin)}"
            do = "take it out of one split: scores on images that were trained on say nothing"
            yield Finding("val", LEAK, str(val.file(index)), what, do, stops=False, image=index)


def _unnamed(opened: dict[SplitName, DenseDataset], splits: Sequence[SplitName]) -> Iterator[Finding]:
    """Files that no entry names, in the folders of any split. A folder may be that of both, or lie in another."""
    if len(opened) < len(SPLITS):  # what the other split uses is not known
        return
    unnamed = {name: dataset.unnamed_files() for name, dataset in opened.items()}
    everywhere = [(folder, set(files)) for folders in unnamed.values() for folder, files in folders.items()]
    told: set[Path] = set()
    for name in splits:
        for file in (file for files in unnamed[name].values() for file in files):
            if file not in told and all(file in files for folder, files in everywhere if folder in file.parents):
                told.add(file)
                what = "no annotation names it, so it is not used"
                yield Finding(name, WITHOUT_ENTRY, str(file), what, "add its entry, or remove it", stops=False)
