"""Feature upsamplers behind one interface: DySample (ICCV 2023), those that its paper compares with, and newer ones.

    upsampler = build_upsampler("dysample", channels=256)
    fine = upsampler(coarse, guide=skip)

Depends on PyTorch alone.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from upsamplers.a2u import A2U, A2UConfig
from upsamplers.base import Upsampler, UpsamplerConfig
from upsamplers.carafe import Carafe, CarafeConfig
from upsamplers.deconv import Deconv, DeconvConfig
from upsamplers.dysample import DySample, DySampleConfig
from upsamplers.fade import Fade, FadeConfig
from upsamplers.fam import Fam, FamConfig
from upsamplers.freqfusion import FreqFusion, FreqFusionConfig
from upsamplers.indexnet import IndexNet, IndexNetConfig
from upsamplers.interpolate import Bilinear, BilinearConfig, Nearest, NearestConfig
from upsamplers.lda_aqu import LdaAqu, LdaAquConfig
from upsamplers.pixel_shuffle import PixelShuffle, PixelShuffleConfig
from upsamplers.published import load_published
from upsamplers.resfu import ReSFU, ReSFUConfig
from upsamplers.sapa import Sapa, SapaConfig, SapaD

__all__ = [
    "A2U",
    "CONFIGS",
    "NAMES",
    "NEWER_NAMES",
    "PAPER_NAMES",
    "PRESETS",
    "Bilinear",
    "Carafe",
    "Deconv",
    "DySample",
    "Fade",
    "Fam",
    "FreqFusion",
    "IndexNet",
    "LdaAqu",
    "Nearest",
    "PixelShuffle",
    "ReSFU",
    "Sapa",
    "SapaD",
    "Upsampler",
    "UpsamplerConfig",
    "build_upsampler",
    "expand_name",
    "load_published",
]

# The one list of upsamplers. A new one is a file with its module and config record, and an entry here.
CONFIGS: tuple[type[UpsamplerConfig], ...] = (
    NearestConfig,
    BilinearConfig,
    DeconvConfig,
    PixelShuffleConfig,
    CarafeConfig,
    IndexNetConfig,
    A2UConfig,
    FadeConfig,
    SapaConfig,
    DySampleConfig,
    FamConfig,
    LdaAquConfig,
    ReSFUConfig,
    FreqFusionConfig,
)
_CONFIG_BY_NAME: dict[str, type[UpsamplerConfig]] = {
    get_args(get_type_hints(config)["name"])[0]: config for config in CONFIGS
}

# Names that stand for an upsampler with certain options.
PRESETS: dict[str, dict[str, Any]] = {
    "naive": {"name": "dysample", "groups": 1, "start": "nearest", "scope": 1.0},
    "dysample+": {"name": "dysample", "dyscope": True},
    "dysample-s": {"name": "dysample", "style": "pl"},
    "dysample-s+": {"name": "dysample", "style": "pl", "dyscope": True},
    "sapa-d": {"name": "sapa", "deform": True},
    "fade-lite": {"name": "fade", "lite": True},
}

# All names that a configuration may use: first those of the DySample paper's tables, then those of other papers.
PAPER_NAMES: tuple[str, ...] = (
    *("nearest", "bilinear", "deconv", "pixelshuffle", "carafe", "indexnet", "a2u", "fade", "sapa"),
    *("naive", "dysample", "dysample+", "dysample-s", "dysample-s+"),
)
NEWER_NAMES: tuple[str, ...] = tuple(name for name in (*_CONFIG_BY_NAME, *PRESETS) if name not in PAPER_NAMES)
NAMES: tuple[str, ...] = PAPER_NAMES + NEWER_NAMES


def build_upsampler(
    upsampler: str | Mapping[str, Any], channels: int, guide_channels: int | None = None, scale: int = 2
) -> Upsampler:
    """Build an upsampler from a name in NAMES or a mapping {"name": ..., option: value}.

    channels: of x. guide_channels: of the guide; by default as many as x has.
    Raises ValueError for unknown names and options, suggesting the closest valid one, and for invalid values.
    """
    options = expand_name(upsampler)
    name = options["name"]
    config = _CONFIG_BY_NAME[name]
    known = [field.name for field in fields(config)]
    for option in options:
        if option not in known:
            raise ValueError(f"upsampler {name} has no option {_suggestion(option, known[1:])}")
    return config(**options).build(channels, channels if guide_channels is None else guide_channels, scale)


def expand_name(upsampler: str | Mapping[str, Any]) -> dict[str, Any]:
    """Expand a name in NAMES, or a mapping with such a name, into a mapping of options for a class in CONFIGS.

    Options given beside a preset's name override the options of the preset.
    Raises ValueError for anything else. For unknown names the message has the closest valid name and the list of all.
    """
    options = {"name": upsampler} if isinstance(upsampler, str) else upsampler
    if not isinstance(options, Mapping) or "name" not in options:
        raise ValueError(f"an upsampler is a name or a mapping with a name, got {upsampler!r}")
    name = options["name"]
    if name not in NAMES:
        raise ValueError(f"unknown upsampler {_suggestion(str(name), NAMES)}")
    preset = PRESETS.get(name, {"name": name})
    return {**preset, **{key: value for key, value in options.items() if key != "name"}}


def _suggestion(word: Any, valid: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(str(word).lower(), valid, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{word!r}; {hint}valid: {', '.join(valid) or 'none'}"
