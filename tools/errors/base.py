"""What the analyses of all tasks have in common."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from structures import Prediction, Target

NO_SCORES = "the predictions of this task have no scores"


class Grade(NamedTuple):
    """How bad the prediction for one image is: larger is worse; and why, for people."""

    badness: float
    why: str


class Analysis(ABC):
    """Adds up the errors of a task, image by image."""

    @abstractmethod
    def add(self, prediction: Prediction, target: Target) -> Grade:
        """Count one image."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What was counted, for JSON and the page; docs/errors.md lists its fields. NaN where nothing was."""


def share(part: float, whole: float) -> float:
    """Part / whole in percent; NaN if whole is 0."""
    return 100 * part / whole if whole else float("nan")
