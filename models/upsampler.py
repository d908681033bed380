"""The upsampler that a model's YAML chooses by name."""

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Field

from upsamplers import CONFIGS, expand_name


def _expand_upsampler(value: Any) -> Any:
    """Expand a paper name into a mapping. A config record, such as a default value, stays as it is."""
    return value if isinstance(value, CONFIGS) else expand_name(value)


if TYPE_CHECKING:
    from upsamplers import UpsamplerConfig as UpsamplerConfig
else:  # mypy cannot read a union that is built at run time; its members are listed once, in `upsamplers`
    _AnyUpsamplerConfig = Union[CONFIGS]  # noqa: UP007
    UpsamplerConfig = Annotated[_AnyUpsamplerConfig, Field(discriminator="name"), BeforeValidator(_expand_upsampler)]
