"""Models of all tasks, and the backbones, heads and losses that they are built from."""

from typing import Annotated

from pydantic import BeforeValidator

from models.components import expand_word
from models.segformer import SegFormerConfig

__all__ = ["ModelConfig"]

# A second model turns this into `Annotated[SegFormerConfig | OtherConfig, Field(discriminator="name"), ...]`.
ModelConfig = Annotated[SegFormerConfig, BeforeValidator(expand_word)]
