"""Datasets, the transforms of their samples, and the loaders that feed the loops."""

from typing import Annotated

from pydantic import Field

from datasets.coco.dataset import COCOConfig
from datasets.nyu.dataset import NYUConfig
from datasets.panoptic.dataset import COCOPanopticConfig
from datasets.semantic.ade20k import ADE20KConfig

# The datasets of `data.name`.
DataConfig = Annotated[ADE20KConfig | COCOConfig | COCOPanopticConfig | NYUConfig, Field(discriminator="name")]
