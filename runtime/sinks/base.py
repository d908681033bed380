"""The interface of a sink: a place where a run shows its numbers and pictures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np


class Sink(ABC):
    """Takes the numbers and pictures of one run. Only the main process has sinks."""

    @abstractmethod
    def add_numbers(self, section: str, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step by name, of a section: train or val."""

    @abstractmethod
    def add_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """A picture [H, W, 3] uint8, RGB."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""

    def problems(self) -> list[str]:
        """What has gone wrong since the last call, one line each. The run goes on."""
        return []
