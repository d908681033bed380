"""Depth predictions on disk: one 16-bit PNG in millimetres per image."""

from pathlib import Path

import numpy as np
import torch

from datasets.base import PredictionFiles
from datasets.files.images import write_png
from datasets.files.paths import problem_with
from datasets.nyu.depth_maps import SATURATED, read_depth_values
from errors import UserError
from structures import Prediction, Target

PER_METRE = 1000  # units of prediction files, independent of data.depth_scale
FARTHEST = SATURATED / PER_METRE


class DepthFiles(PredictionFiles):
    """NAME.png per image: 16 bits, single channel, at the image's size, round(1000 * metres), every pixel predicted.

    So the depths in files differ from the predicted ones by up to half a millimetre. Depths below 1 mm are written as
    1, depths beyond 65.535 m as 65535. Raises UserError if max_depth, the limit of the data in metres, is beyond that.
    """

    def __init__(self, folder: Path, max_depth: float) -> None:
        if max_depth > FARTHEST:
            what = f"{max_depth:g} m is beyond the {FARTHEST} m that 16-bit millimetres hold"
            raise UserError("data.max_depth", what, "score this data without prediction files")
        self._folder = folder

    def write(self, prediction: Prediction, target: Target) -> None:
        """Store `prediction.depth`. Raises UserError if it is not finite or the file cannot be written."""
        assert prediction.depth is not None
        path = self._path(target)
        metres = prediction.depth.cpu().double().numpy()
        if not np.isfinite(metres).all():
            what = f"image {target.image_id} has predicted depths that are not finite"
            raise UserError(path, what, "use other weights: these have diverged")
        write_png(path, np.rint(metres * PER_METRE).clip(1, SATURATED).astype(np.uint16))

    def finish(self) -> None:
        """Nothing to do: there is one file per image."""

    def read(self, target: Target) -> Prediction:
        """The stored depths [H, W] float32 in metres.

        Raises UserError if the file is missing, of another size, not 16-bit grey, or has pixels without a prediction.
        """
        path = self._path(target)
        if problem := problem_with(path, "file"):
            raise UserError(path, problem, f"predict image {target.image_id}, or name the predictions' folder")
        values = read_depth_values(path)
        if values.shape != target.size:
            (h, w), (height, width) = values.shape, target.size
            what = f"is {w} x {h} pixels (width x height) but its image is {width} x {height}"
            raise UserError(path, what, "resize predictions to the original size")
        if values.min() == 0:
            row, column = np.argwhere(values == 0)[0]
            what = f"value 0 at row {row}, column {column} is not a distance"
            raise UserError(path, what, "predict every pixel, in millimetres from 1 to 65535")
        return Prediction(depth=torch.from_numpy(values.astype(np.float32) / np.float32(PER_METRE)))

    def _path(self, target: Target) -> Path:
        return self._folder / f"{target.image_id}.png"
