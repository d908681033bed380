"""Depth predictions on disk: one 16-bit PNG per image, in millimetres or in units that the file states."""

import math
from pathlib import Path

import numpy as np
import torch

from datasets.base import PredictionFiles
from datasets.files.folders import find_file
from datasets.files.images import write_png
from datasets.files.paths import problem_with
from datasets.nyu.depth_maps import SATURATED, read_depth_file
from errors import UserError
from structures import Prediction, Target

SCALE = "depth_scale"  # key of a text in the PNG: units per metre
MILLIMETRES = 1000  # units per metre if there is no such text; independent of data.depth_scale
SCALES = (MILLIMETRES, 256, 100, 10, 1)  # up to 65.535 m; as KITTI, up to 255.99 m; centimetres, up to 655.35 m; ..


class DepthFiles(PredictionFiles):
    """NAME.png per image: 16 bits, single channel, at the image's size, every pixel predicted: round(scale * metres).

    The scale is the first of SCALES with which 16 bits hold max_depth, the limit of the data in metres. Unless it is
    1000, millimetres, every file states it in a `tEXt` chunk, `depth_scale`. Depths are off by up to half a unit;
    nearer ones than 1 unit are written as 1, farther ones than 16 bits hold as 65535.
    """

    def __init__(self, folder: Path, max_depth: float) -> None:
        self._folder = folder
        self._scale: float = next((s for s in SCALES if max_depth * s <= SATURATED), SATURATED / max_depth)

    def write(self, prediction: Prediction, target: Target) -> None:
        """Store `prediction.depth`. Raises UserError if it is not finite or the file cannot be written."""
        assert prediction.depth is not None
        path = self._folder / f"{target.image_id}.png"
        metres = prediction.depth.cpu().numpy()
        if not np.isfinite(metres).all():
            what = f"image {target.image_id} has predicted depths that are not finite"
            raise UserError(path, what, "use other weights: these have diverged")
        values = np.empty(metres.shape, np.uint16)
        for row, depths in enumerate(metres):  # in float64, of which a large image would take gigabytes
            values[row] = np.rint(depths * np.float64(self._scale)).clip(1, SATURATED)
        write_png(path, values, {} if self._scale == MILLIMETRES else {SCALE: repr(self._scale)})

    def finish(self) -> None:
        """Nothing to do: there is one file per image."""

    def read(self, target: Target) -> Prediction:
        """The stored depths [H, W] float32 in metres.

        Raises UserError if the file is missing, of another size, not 16-bit grey, or has pixels without a prediction.
        """
        path = find_file(self._folder / f"{target.image_id}.png")
        if problem := problem_with(path, "file"):
            raise UserError(path, problem, f"predict image {target.image_id}, or name the predictions' folder")
        values, texts = read_depth_file(path)
        scale = _scale(path, texts.get(SCALE, str(MILLIMETRES)))
        if values.shape != target.size:
            (h, w), (height, width) = values.shape, target.size
            what = f"is {w} x {h} pixels (width x height) but its image is {width} x {height}"
            raise UserError(path, what, "resize predictions to the original size")
        if values.min() == 0:
            row, column = np.argwhere(values == 0)[0]
            what = f"value 0 at row {row}, column {column} is not a distance"
            raise UserError(path, what, "predict every pixel, in units from 1 to 65535")
        return Prediction(depth=torch.from_numpy(values.astype(np.float32) / np.float32(scale)))


def _scale(path: Path, text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0
    if not (math.isfinite(scale) and scale > 0):
        what = f"its {SCALE}, {text[:40]!r}, is not a number of units per metre"
        raise UserError(path, what, f"write a positive number, or no {SCALE} for millimetres")
    return scale
