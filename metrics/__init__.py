"""Metrics of all tasks."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from metrics.mean_iou import MeanIoUConfig


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# The entries of `metrics`; a word is short for {name: word}. From the second metric on:
# Annotated[MeanIoUConfig | OtherConfig, Field(discriminator="name"), BeforeValidator(_by_name)].
MetricConfig = Annotated[MeanIoUConfig, BeforeValidator(_by_name)]
