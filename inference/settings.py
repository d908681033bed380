"""The settings of `evaluation.inference`."""

from typing import Annotated

from pydantic import Field

from config import Schema
from errors import UserError
from inference.merging import MergeConfig
from inference.windows import WindowConfig


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
