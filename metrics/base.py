"""What every metric offers. Metrics stream: their memory does not grow with the number of pixels seen."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from structures import Prediction, Target


class Metric(ABC):
    """Compares predictions with targets, image by image, over any number of processes.

    names: of the numbers that `compute` gives. primary: the one by which the best checkpoint is chosen.
    lower_is_better: names of numbers that should fall.
    protocol: what must be said beside the numbers for them to mean something.
    """

    names: tuple[str, ...]
    primary: str
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    protocol: dict[str, Any]

    @abstractmethod
    def update(self, predictions: list[Prediction], targets: list[Target]) -> None:
        """Take in some images."""

    @abstractmethod
    def gather(self) -> None:
        """Merge the state of all processes, once, after the last `update`; without processes it does nothing."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The numbers, named and scaled as in the paper."""

    @abstractmethod
    def per_class(self) -> list[dict[str, Any]]:
        """One record per class, empty where classes have no meaning."""
