"""Datasets, the transforms of their samples, and the loaders that feed the loops."""

from typing import Annotated

from pydantic import Field

from datasets.ade20k import ADE20KConfig
from datasets.coco import COCOConfig
from datasets.coco_panoptic import COCOPanopticConfig
from datasets.nyu import NYUConfig

# The datasets of `data.name`.
DataConfig = Annotated[ADE20KConfig | COCOConfig | COCOPanopticConfig | NYUConfig, Field(discriminator="name")]
