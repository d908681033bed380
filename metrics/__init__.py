"""The metrics of all tasks."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from config import expand_word
from metrics.coco_ap import CocoAPConfig
from metrics.depth_errors import DepthErrorsConfig
from metrics.mean_iou import MeanIoUConfig
from metrics.panoptic_quality import PanopticQualityConfig

# The entries of `metrics`; a word is short for {name: word}.
MetricConfig = Annotated[
    MeanIoUConfig | CocoAPConfig | PanopticQualityConfig | DepthErrorsConfig,
    Field(discriminator="name"),
    BeforeValidator(expand_word),
]
