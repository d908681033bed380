"""The parts that a model's YAML chooses by name."""

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Field

from config import expand_word
from models.backbones.mit import MiTConfig
from models.backbones.resnet import ResNetConfig
from models.backbones.swin import SwinConfig
from upsamplers import CONFIGS, expand_name

BackboneConfig = Annotated[
    MiTConfig | ResNetConfig | SwinConfig, Field(discriminator="name"), BeforeValidator(expand_word)
]


def _expand_upsampler(value: Any) -> Any:
    """A paper name as a mapping; a record, as a default is, stays."""
    return value if isinstance(value, CONFIGS) else expand_name(value)


if TYPE_CHECKING:
    from upsamplers import UpsamplerConfig
else:  # its members are listed once, in `upsamplers`
    _Any = Union[CONFIGS]  # noqa: UP007
    UpsamplerConfig = Annotated[_Any, Field(discriminator="name"), BeforeValidator(_expand_upsampler)]
