"""The components that a model's YAML chooses by name: backbones and upsamplers."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from config import expand_word
from models.backbones.mit import MiTConfig
from models.backbones.resnet import ResNetConfig
from models.backbones.swin import SwinConfig
from models.backbones.timm import TimmConfig
from models.upsampler import UpsamplerConfig

__all__ = ["BackboneConfig", "UpsamplerConfig"]

BackboneConfig = Annotated[
    MiTConfig | ResNetConfig | SwinConfig | TimmConfig, Field(discriminator="name"), BeforeValidator(expand_word)
]
