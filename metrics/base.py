"""The interface of metrics. Metrics are streaming: their memory does not grow with the number of pixels."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from structures import Prediction, Target


class Metric(ABC):
    """Compares predictions with targets, image by image, in any number of processes.

    names: of the values that `compute` returns. primary: the name of the value that selects the best checkpoint.
    lower_is_better: names of the values for which lower is better.
    protocol: what a result must state beside the values, such as how they are averaged.
    """

    names: tuple[str, ...]
    primary: str
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    protocol: dict[str, Any]

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the values that a line about an evaluation shows."""
        return self.names

    @abstractmethod
    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Add the predictions and targets of some images."""

    @abstractmethod
    def gather(self) -> None:
        """Merge the states of all processes; called once, after the last `update`. With one process nothing changes."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values by name, scaled as in the paper."""

    @abstractmethod
    def per_class(self) -> list[dict[str, Any]]:
        """One record per class; an empty list for data without classes."""
