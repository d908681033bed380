"""Copies of the embedded scenes to break, and their configurations."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.scenes import SCENE_CLASSES
from experiment import load_experiment
from tools.check_data.check import Report, check

LAYOUTS = {"seg": "ADEChallengeData2016", "det": "coco", "inst": "coco", "pan": "coco", "depth": "nyu"}
INSTANCES = "annotations/instances_train2017.json"


class Copy:
    """A copy of the scenes in the layout of a task (seg, det, inst, pan, depth)."""

    def __init__(self, scenes: Path, folder: Path, task: str) -> None:
        self.root = folder / LAYOUTS[task]
        self.task = task
        shutil.copytree(scenes / LAYOUTS[task], self.root)

    def arguments(self) -> list[str]:
        classes = f"data.classes=[{', '.join(SCENE_CLASSES)}]"
        return [f"data.root={self.root}", *([classes] if self.task == "seg" else [])]

    def check(self, *overrides: str, workers: int = 0) -> Report:
        cfg = f"configs/small/{self.task}.yaml"
        return check(load_experiment(cfg, [*self.arguments(), *overrides]), cfg, workers=workers)

    def images(self, split: str = "train") -> list[Path]:
        """The images of a split, in the order of the data set."""
        if self.task == "seg":
            return sorted((self.root / "images" / f"{split}ing".replace("valing", "validation")).iterdir())
        return sorted((self.root / f"{split}2017").iterdir())

    def labels(self) -> list[Path]:
        return sorted((self.root / "annotations/training").iterdir())

    def edit(self, change: Callable[[dict[str, Any]], None], file: str = INSTANCES) -> Path:
        """Change a JSON file."""
        path = self.root / file
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return path


def write(path: Path, values: np.ndarray) -> None:
    assert cv2.imwrite(str(path), values)


def found(report: Report) -> list[tuple[str, str, bool]]:
    """Of each finding its kind, its file and whether it stops training."""
    return [(finding.kind, finding.file, finding.stops) for finding in report.findings]
