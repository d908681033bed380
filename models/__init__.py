"""Models of all tasks, and the backbones, heads and losses that they are built from."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from config import expand_word
from models.depthformer.model import DepthFormerConfig
from models.maskformer.model import MaskFormerConfig
from models.panoptic_fpn.model import PanopticFPNConfig
from models.probe.model import ProbeConfig
from models.rcnn.model import FasterRCNNConfig, MaskRCNNConfig
from models.segformer.model import SegFormerConfig

__all__ = ["ModelConfig"]

ModelConfig = Annotated[
    SegFormerConfig
    | MaskFormerConfig
    | FasterRCNNConfig
    | MaskRCNNConfig
    | PanopticFPNConfig
    | DepthFormerConfig
    | ProbeConfig,
    Field(discriminator="name"),
    BeforeValidator(expand_word),
]
