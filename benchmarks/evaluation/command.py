"""The command that the comparisons of evaluation share."""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import torch

from benchmarks.pairs import Row, publish
from benchmarks.segformer_step import positive
from runtime.memory import EVALUATION, keep_freed_memory


def run(description: str | None, measure: Callable[[int, int], list[Row]], *, images: int, rounds: int) -> None:
    """Measure on one thread with the memory settings of eval.py, and publish. images, rounds: the defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=positive, default=images)
    parser.add_argument("--rounds", type=positive, default=rounds)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory(EVALUATION)
    publish(measure(arguments.images, arguments.rounds), arguments.json, images=arguments.images)
