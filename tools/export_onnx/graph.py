"""What is exported: a module with named inputs and outputs."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Graph:
    """A module to trace. inputs: an example of each, by name. dynamic: names of the axes that may change, by input."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]
