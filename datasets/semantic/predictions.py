"""Semantic predictions on disk: one PNG of class indices per image."""

from pathlib import Path

import numpy as np
import torch

from datasets.base import PredictionFiles
from datasets.files.folders import find_file
from datasets.files.images import read_label_map, write_png
from datasets.files.paths import problem_with
from errors import UserError
from structures import Prediction, Target


class SemanticFiles(PredictionFiles):
    """NAME.png per image: class indices from 0 at the image's size; 8 bits with a palette, 16 if over 256 classes."""

    def __init__(self, folder: Path, num_classes: int) -> None:
        self._folder = folder
        self._num_classes = num_classes

    def write(self, prediction: Prediction, target: Target) -> None:
        """Store `prediction.semantic`. Raises UserError if the file cannot be written."""
        assert prediction.semantic is not None
        labels = prediction.semantic.cpu().numpy()
        values = labels.astype(np.uint8 if self._num_classes <= 256 else np.uint16)
        write_png(self._path(target), values, coloured=True)

    def finish(self) -> None:
        """Nothing to do: there is one file per image."""

    def read(self, target: Target) -> Prediction:
        """The stored label map [H, W] int16. UserError if it is missing, has another size, or has unknown classes."""
        path = find_file(self._path(target))
        if problem := problem_with(path, "file"):
            raise UserError(path, problem, f"predict image {target.image_id}, or name the predictions' folder")
        labels = read_label_map(path)
        if labels.shape != target.size:
            (h, w), (height, width) = labels.shape, target.size
            what = f"is {w} x {h} pixels (width x height) but its image is {width} x {height}"
            raise UserError(path, what, "resize the scores to the original size before taking the best class")
        if labels.max() >= self._num_classes:
            what = f"value {labels.max()} is not a class (0 to {self._num_classes - 1})"
            raise UserError(path, what, "write class indices that start from 0")
        return Prediction(semantic=torch.from_numpy(labels.astype(np.int16)))

    def _path(self, target: Target) -> Path:
        return self._folder / f"{target.image_id}.png"
