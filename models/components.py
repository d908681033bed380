"""The components that a model's YAML chooses by name: backbones, upsamplers, losses of semantic segmentation."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from config import expand_word
from models.backbones.mit import MiTConfig
from models.backbones.resnet import ResNetConfig
from models.backbones.swin import SwinConfig
from models.backbones.timm import TimmConfig
from models.layers.dice import DiceConfig
from models.layers.ohem import OHEMConfig
from models.layers.pixel_losses import CrossEntropyConfig, FocalConfig
from models.upsampler import UpsamplerConfig

__all__ = ["BackboneConfig", "LossConfigs", "UpsamplerConfig"]

BackboneConfig = Annotated[
    MiTConfig | ResNetConfig | SwinConfig | TimmConfig, Field(discriminator="name"), BeforeValidator(expand_word)
]

LossConfig = Annotated[
    CrossEntropyConfig | FocalConfig | OHEMConfig | DiceConfig,
    Field(discriminator="name"),
    BeforeValidator(expand_word),
]


def _check_losses(losses: tuple[LossConfig, ...]) -> tuple[LossConfig, ...]:
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is listed twice; list it once and give it a weight")
    return losses


# The losses of semantic segmentation, which are added up.
LossConfigs = Annotated[tuple[LossConfig, ...], Field(min_length=1), AfterValidator(_check_losses)]
