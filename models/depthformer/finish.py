"""The last step of a depth prediction: calibrated to a camera, and kept in the range of the data."""

from dataclasses import dataclass

from pydantic import PositiveFloat
from torch import Tensor

from config import Schema


class CalibrationConfig(Schema):
    """Predicted depth becomes scale * depth + shift; shift in metres. `tools.calibrate` finds the two for a camera.

    Training does without: its loss is that of the depth before.
    """

    scale: PositiveFloat = 1
    shift: float = 0


@dataclass(frozen=True)
class Finish:
    """Depths of any shape, metres -> scale * depth + shift, clamped to nearest..farthest."""

    nearest: float
    farthest: float
    calibration: CalibrationConfig | None = None

    def __call__(self, depth: Tensor) -> Tensor:
        """See the class."""
        if self.calibration is not None:
            depth = depth * self.calibration.scale + self.calibration.shift
        return depth.clamp(self.nearest, self.farthest)
