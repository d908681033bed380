"""The meaning of the values in label maps: read maps, count their pixels, and say what looks wrong."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from datasets.files.images import read_label_map
from errors import UserError
from structures import IGNORE

UNKNOWN = -2  # in the table from file values to labels: a value that is neither a class nor ignored
MASK = {0, 255}  # the values of black and white masks
SHOWN = 5  # names or values in a message


class LabelTable:
    """What the values of label maps stand for.

    values: the label of each value that is a class. ignored: values of pixels to ignore. classes: names in label order.
    in_order: whether the values come from data.first_label, not from data.label_values.
    """

    def __init__(
        self, values: Mapping[int, int], ignored: Collection[int], classes: Sequence[str], in_order: bool
    ) -> None:
        self._in_order = in_order
        self._values, self._ignored, self._classes = values, tuple(ignored), classes
        self._labels = np.full(2**16, UNKNOWN, np.int16)
        self._labels[list(values)] = list(values.values())
        self._labels[list(self._ignored)] = IGNORE

    def read(self, path: Path) -> np.ndarray:
        """The labels of a map, [H, W] int16, or IGNORE. Raises UserError if it is unusable or has other values."""
        return self._labels_of(path, read_label_map(path))

    def count(self, path: Path) -> np.ndarray:
        """The number of pixels of each value in a map: [65536] int64. Raises UserError like `read`."""
        values = read_label_map(path)
        counts = np.bincount(values.ravel(), minlength=2**16)
        if counts[self._labels == UNKNOWN].any():
            self._labels_of(path, values)
        return counts

    def by_class(self, counts: np.ndarray) -> np.ndarray:
        """The number of pixels of each class, [K] int64, from that of each value."""
        of_class = self._labels >= 0
        return np.bincount(self._labels[of_class], counts[of_class], minlength=len(self._classes)).astype(np.int64)

    def _labels_of(self, path: Path, values: np.ndarray) -> np.ndarray:
        bytes_alone = values.dtype == np.uint8
        labels: np.ndarray = cv2.LUT(values, self._labels[:256]) if bytes_alone else self._labels[values]
        if labels.min() == UNKNOWN:
            row, column = np.argwhere(labels == UNKNOWN)[0]
            numbers = sorted(self._values)
            gaps = numbers[-1] - numbers[0] >= len(numbers)
            classes = _some(numbers) if gaps else f"{numbers[0]} to {numbers[-1]}"
            what = f"value {values[row, column]} at row {row}, column {column} is not a class"
            what += f" (classes: {classes}; ignored: {_some(self._ignored) or 'none'})"
            raise UserError(path, what, self._advice({*np.unique(values).tolist()}))
        return labels

    def _likely_cause(self, present: set[int]) -> str | None:
        """What is likely to be wrong if label maps hold these values, and what to do."""
        if present == MASK and len(self._classes) == 2:
            black, white = self._classes
            settings = _settings(label_values={0: black, 255: white}, ignore_labels=[])
            return f"if these are masks of 0 and 255, set {settings}"
        from_one = set(self._values) == set(range(1, len(self._classes) + 1))
        if self._in_order and from_one and 0 in present and max(present - {255}) < len(self._classes):
            return f"if the values start from 0, set {_settings(first_label=0, ignore_labels=[255])}"
        return None

    def _advice(self, present: set[int]) -> str:
        """What to do about label maps with these values."""
        text = "correct the file, or data.classes, data.first_label, data.ignore_labels"
        text += f", or name the class of each value in data.label_values (here are {_some(sorted(present))})"
        return self._likely_cause(present) or text

    def check_labelled(self, counts: np.ndarray, folder: Path, maps: int) -> None:
        """Raise UserError if all pixels are ignored. counts: the pixels of each value in all `maps` of `folder`."""
        if not self.by_class(counts).any():
            present = np.flatnonzero(counts).tolist()
            what = f"not one pixel of {maps} label maps has a class: they hold only {_some(present)}, which is ignored"
            raise UserError(folder, what, self._advice(set(present)))

    def warnings(self, counts: np.ndarray, complete: bool) -> list[str]:
        """What looks wrong, and its likely cause. counts: the pixels of each value. complete: in all maps.

        Of a sample, classes without a pixel are no warning, unless all but the last are there and 0 is ignored.
        """
        by_class, present = self.by_class(counts), np.flatnonzero(counts).tolist()
        empty = [name for name, count in zip(self._classes, by_class, strict=True) if not count]
        last_alone = empty == [self._classes[-1]]
        cause = self._likely_cause(set(present)) if last_alone else None
        if not empty or not (complete or cause):
            return []
        text = f"no pixel is {_some(empty)}"
        if len(empty) == len(self._classes) - 1:
            text += ", so there is nothing to tell apart"
        text += f"; the values are {_some(present)}" + (f" (ignored: {_some(self._ignored)})" if self._ignored else "")
        return [f"{text}: {cause}" if cause else text]


def single_class_advice(name: str, value: int, ignored: Sequence[int]) -> str:
    """How to train on one class `name`, whose pixels have `value`, while all others are `ignored`."""
    if not ignored:
        return "name the other classes, too"
    classes = ["background", name]
    if tuple(ignored) == (0,) and value == 1:
        return f"set {_settings(classes=classes, first_label=0, ignore_labels=[255])}"
    background, *rest = ignored
    return f"set {_settings(classes=classes, label_values={background: 'background', value: name}, ignore_labels=rest)}"


def _settings(**settings: Any) -> str:
    """Settings of `data` as arguments of a command, quoted for the shell."""
    texts = []
    for key, value in settings.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=2**20, allow_unicode=True, sort_keys=False)
        texts.append(shlex.quote(f"data.{key}={text.removesuffix(chr(10)).removesuffix('...').strip()}"))
    return " ".join(texts)


def _some(items: Collection[Any]) -> str:
    shown = ", ".join(map(str, list(items)[:SHOWN]))
    return f"{shown} and {len(items) - SHOWN} more" if len(items) > SHOWN else shown
