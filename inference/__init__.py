"""How a trained model predicts an image: at once, or in windows and in several views that are put together.

Settings: `evaluation.inference`. `experiment.inference(model)` makes an `Inference` of them.
"""

from typing import Annotated

from pydantic import Field

from config import Schema
from datasets.base import Transform
from errors import UserError
from inference.base import Inference
from inference.maps import MapInference
from inference.merging import MergeConfig
from inference.objects import ObjectInference
from inference.windows import WindowConfig
from models.base import DenseModel

__all__ = ["Inference", "InferenceConfig"]


class InferenceConfig(Schema):
    """How to predict an image. By default: the whole image at once, as it is.

    windows: predict it in windows that overlap. flip: also mirrored left to right. scales: resized by each of these
    factors. Class probabilities and depths are averaged over all of these; objects are merged as `merge` says.
    """

    windows: WindowConfig | None = None
    flip: bool = False
    scales: Annotated[tuple[Annotated[float, Field(ge=0.1, le=10)], ...], Field(min_length=1)] = (1.0,)
    merge: MergeConfig = MergeConfig()

    @property
    def at_once(self) -> bool:
        """Whether an image is predicted once, as it is."""
        return self.windows is None and not self.flip and self.scales == (1.0,)

    def check(self, task: str, where: str) -> None:
        """Raise UserError, naming the setting, if predictions for this task cannot be put together."""
        if task == "panoptic" and not self.at_once:
            what = "segments of panoptic predictions cannot be put together from windows or views"
            raise UserError(where, what, "set evaluation.inference=null")

    def build(self, model: DenseModel, transforms: tuple[Transform, ...], task: str) -> Inference:
        """The settings with a model. transforms: of test images."""
        if self.at_once:
            return Inference(model, transforms)
        if task in ("semantic", "depth"):
            return MapInference(model, transforms, self.windows, self.flip, self.scales, is_depth=task == "depth")
        return ObjectInference(model, transforms, self.windows, self.flip, self.scales, self.merge)
