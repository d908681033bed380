"""Metrics of all tasks."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from metrics.coco_ap import CocoAPConfig
from metrics.depth_errors import DepthErrorsConfig
from metrics.mean_iou import MeanIoUConfig
from metrics.panoptic_quality import PanopticQualityConfig


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# The entries of `metrics`; a word is short for {name: word}.
MetricConfig = Annotated[
    MeanIoUConfig | CocoAPConfig | PanopticQualityConfig | DepthErrorsConfig,
    Field(discriminator="name"),
    BeforeValidator(_by_name),
]
