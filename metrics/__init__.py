"""Metrics of all tasks."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from metrics.coco_ap import CocoAPConfig
from metrics.mean_iou import MeanIoUConfig


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# The entries of `metrics`; a word is short for {name: word}.
MetricConfig = Annotated[MeanIoUConfig | CocoAPConfig, Field(discriminator="name"), BeforeValidator(_by_name)]
