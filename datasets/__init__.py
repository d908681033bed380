"""Datasets, the transforms of their samples, and the loaders that feed the loops."""

from typing import Annotated

from pydantic import Field

from datasets.ade20k import ADE20KConfig
from datasets.coco import COCOConfig
from datasets.coco_panoptic import COCOPanopticConfig

# The datasets of `data.name`.
DataConfig = Annotated[ADE20KConfig | COCOConfig | COCOPanopticConfig, Field(discriminator="name")]
