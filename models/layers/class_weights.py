"""Weights of classes in a loss: given, or from how often the classes occur in the training data."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from errors import suggest
from structures import ClassFrequencies, DatasetInfo

# By class name (others 1), or one number for each class in order, or a rule for all pixels of the training labels:
# median_frequency: median(f) / f, f being the share of a class in the pixels of the images that it occurs in (Eigen &
#   Fergus, ICCV 2015, section 6.3.3). The median class has weight 1.
# inverse_log: 1 / ln(1.02 + f), f being its share in all pixels; from 1.4 to 50 (Paszke et al., "ENet", 2016,
#   section 5.2).
# Classes that do not occur have weight 1 or 50. None: all 1.
Rule = Literal["median_frequency", "inverse_log"]
ClassWeights = (
    Rule
    | Annotated[dict[str, NonNegativeFloat], Field(min_length=1)]
    | Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]
    | None
)


def class_weights(setting: ClassWeights, info: DatasetInfo) -> Tensor | None:
    """The weights [K] float32 for the classes of `info`; None: all 1.

    A rule needs `info.frequencies`, which training data have; without them, where nothing is trained, all are 1.
    Raises ValueError if a name is no class, or if there are more or fewer numbers than classes.
    """
    if setting is None:
        return None
    if isinstance(setting, dict):
        for name in setting:
            if name not in info.classes:
                raise ValueError(f"class_weights names {name}, which is no class; {suggest(name, list(info.classes))}")
        return torch.tensor([setting.get(name, 1.0) for name in info.classes])
    if isinstance(setting, tuple):
        if len(setting) != info.num_classes:
            what = f"class_weights has {len(setting)} numbers for {info.num_classes} classes"
            raise ValueError(f"{what}; give one number for each class, or name the classes")
        return torch.tensor(setting)
    if info.frequencies is None:
        return None
    rule = {"median_frequency": median_frequency, "inverse_log": inverse_log}[setting]
    return torch.tensor(rule(info.frequencies()))


def median_frequency(frequencies: ClassFrequencies) -> list[float]:
    """median(f) / f of each class; 1 for a class that does not occur."""
    present = sorted(share for share in frequencies.where_present if share > 0)
    middle = len(present) // 2
    median = present[middle] if len(present) % 2 else (present[middle - 1] + present[middle]) / 2
    return [median / share if share > 0 else 1.0 for share in frequencies.where_present]


def inverse_log(frequencies: ClassFrequencies) -> list[float]:
    """1 / ln(1.02 + f) of each class."""
    return [1 / math.log(1.02 + share) for share in frequencies.of_all]
