"""The contact sheet: which pictures it shows, worst first, and how they look."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.files.folders import evenly_spread
from datasets.files.images import read_image
from errors import UserError
from pictures import class_colours, draw_truth
from pictures.canvas import Colour, enlarge
from structures import DatasetInfo, Target
from tools.check_data.check import Report, Split
from tools.check_data.findings import Finding, SplitName, by_kind
from tools.check_data.reading import measure
from tools.pages.html import encode

MOST = 40  # pictures
WITH_FINDINGS = 20
LEAST_LABELLED = MOST_OBJECTS = 5  # of each split
FEW = 0.8  # of the mean share of labelled pixels
CLASSES_SHOWN = 6


@dataclass
class Card:
    """One picture. reason: why it is shown. stops: whether for a finding that stops training; None: for no finding.

    jpeg: base64; "": the image cannot be read. classes: the most frequent classes and their colours.
    """

    split: SplitName
    file: str
    reason: str
    stops: bool | None = None
    jpeg: str = ""
    size: tuple[int, int] = (3, 4)
    classes: tuple[tuple[str, Colour], ...] = ()


def cards(report: Report) -> Iterator[Card]:
    """At most MOST pictures, one at a time.

    First images with findings, the kinds taking turns; then those with much fewer labelled pixels than others, then
    those with the most objects, and at last an even spread of all.
    """
    shown: set[tuple[SplitName, int]] = set()
    for split, index, reason, finding in _picks(report):
        if len(shown) < MOST and (split.name, index) not in shown:
            shown.add((split.name, index))
            card = Card(split.name, str(split.file(index)), reason, None if finding is None else finding.stops)
            _draw(card, split, index, report.info)
            yield card


def _picks(report: Report) -> Iterator[tuple[Split, int, str, Finding | None]]:
    """Split, image, why it is shown, and the finding if that is the reason."""
    groups = [[item for item in group if item.image is not None] for group in by_kind(report.findings).values()]
    turns = [group[turn] for turn in range(WITH_FINDINGS) for group in groups if turn < len(group)]
    for finding in turns[:WITH_FINDINGS]:
        if finding.image is not None:
            yield report.splits[finding.split], finding.image, f"{finding.kind}: {finding.what}", finding
    for split in report.splits.values():
        tally, read = split.tally, np.flatnonzero(split.tally.read)
        if tally.labelled.any():
            few = read[tally.labelled[read] < FEW * tally.labelled[read].mean()]
            for index in few[np.argsort(tally.labelled[few], kind="stable")][:LEAST_LABELLED].tolist():
                yield split, index, f"little labelled: {100 * tally.labelled[index]:.0f} % of its pixels", None
        if tally.num_objects.any():
            for index in read[np.argsort(-tally.num_objects[read], kind="stable")][:MOST_OBJECTS].tolist():
                yield split, index, f"many objects: {tally.num_objects[index]}", None
    for split in report.splits.values():
        for index in evenly_spread(len(split.dataset), MOST // len(report.splits)):
            yield split, index, "one of an even spread", None


def _draw(card: Card, split: Split, index: int, info: DatasetInfo) -> None:
    """Add the picture, as far as the files can be read."""
    try:
        sample = split.dataset.load(index)
    except UserError:
        image = _image_alone(card, split, index)
        if image is not None:
            card.jpeg, card.size = encode(image)
        return
    target = sample.target()
    picture = draw_truth(sample.image, target, info)
    if info.task == "depth":
        image = cv2.resize(sample.image, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
        picture = np.hstack([image, picture])
    card.jpeg, card.size = encode(picture)
    card.classes = tuple(_frequent(target, info))


def _image_alone(card: Card, split: Split, index: int) -> np.ndarray | None:
    try:
        return enlarge(read_image(split.file(index), "full"))
    except UserError:
        return None


def _frequent(target: Target, info: DatasetInfo) -> Iterator[tuple[str, Colour]]:
    """The classes with the most pixels, or with the most objects if there are only boxes, and their colours."""
    reading, colours = measure(0, target, info), class_colours(info)
    amounts = reading.pixels if reading.pixels.any() else reading.objects
    for label in reading.labels[np.argsort(-amounts, kind="stable")][:CLASSES_SHOWN].tolist():
        yield info.classes[label], colours[info.classes[label]]
