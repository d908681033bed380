"""Models of all tasks, and the backbones, heads and losses that they are built from."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from models.components import expand_word
from models.depthformer import DepthFormerConfig
from models.detection.rcnn import FasterRCNNConfig, MaskRCNNConfig
from models.maskformer.maskformer import MaskFormerConfig
from models.panoptic.panoptic_fpn import PanopticFPNConfig
from models.segformer import SegFormerConfig

__all__ = ["ModelConfig"]

ModelConfig = Annotated[
    SegFormerConfig | MaskFormerConfig | FasterRCNNConfig | MaskRCNNConfig | PanopticFPNConfig | DepthFormerConfig,
    Field(discriminator="name"),
    BeforeValidator(expand_word),
]
