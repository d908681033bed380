"""Lengths of a run, and learning-rate schedules as functions of the step, so that resuming needs no state.

Lengths are numbers of optimiser steps. `12 epochs` is that many passes over the training images, `5 %` that share of
the run's steps.
"""

import math
import re
from bisect import bisect_right
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PositiveFloat, ValidatorFunctionWrapHandler, WrapValidator
from torch.optim import Optimizer

from config import Fraction, Schema

_NUMBER = r"(?=.*[1-9])(\d{1,9}(?:\.\d{1,9})?)"
_EPOCHS = re.compile(_NUMBER + r" ?epochs?")
_SHARE = re.compile(r"(100|\d{1,2}(?:\.\d{1,9})?) ?%")


def _or_text(form: re.Pattern[str]) -> WrapValidator:
    def read(value: Any, as_number: ValidatorFunctionWrapHandler) -> Any:
        return value if isinstance(value, str) and form.fullmatch(value) else as_number(value)

    return WrapValidator(read)


_AS_IT_IS = PlainSerializer(lambda value: value)
# Steps, or a text of epochs until `steps_of` (see `Experiment.in_steps`) has made steps of it.
Steps = Annotated[int, Field(gt=0), _or_text(_EPOCHS), _AS_IT_IS]
# Steps, or a text in percent, of which `share_of` makes steps.
StepsOrShare = Annotated[int, Field(ge=0), _or_text(_SHARE), _AS_IT_IS]


def is_in_epochs(length: int | str) -> bool:
    """Whether a length is a text such as `12 epochs`."""
    return isinstance(length, str) and _EPOCHS.fullmatch(length) is not None


def steps_of(length: int | str, epoch: float) -> int:
    """The whole steps of a length, at least 1. epoch: the steps of one epoch, perhaps with a fraction."""
    found = _EPOCHS.fullmatch(str(length))
    return max(1, round(float(found[1]) * epoch)) if found else int(length)


def share_of(length: int | str, steps: int) -> int:
    """The whole steps of a length that may be a share of a run of `steps`."""
    found = _SHARE.fullmatch(str(length))
    return round(float(found[1]) / 100 * steps) if found else int(length)


class _ScheduleConfig(Schema):
    """warmup_steps: the rate is multiplied by a factor that rises from warmup_ratio to 1 over these steps.

    They may be a share of the run, such as `5 %`.
    """

    warmup_steps: StepsOrShare = 0
    warmup_ratio: Fraction = 0.001

    def warmup(self, step: int, steps: int) -> float:
        """The warm-up factor at 0-based `step` of `steps`; linear as in mmcv."""
        warmup_steps = share_of(self.warmup_steps, steps)
        if step >= warmup_steps:
            return 1.0
        return 1 - (1 - step / warmup_steps) * (1 - self.warmup_ratio)


class PolyConfig(_ScheduleConfig):
    """(1 - step / steps) ** power, down to zero."""

    name: Literal["poly"] = "poly"
    power: PositiveFloat = 1.0

    def factor(self, step: int, steps: int) -> float:
        """Learning-rate multiplier at 0-based `step` of `steps`."""
        return self.warmup(step, steps) * (1 - step / steps) ** self.power


class CosineConfig(_ScheduleConfig):
    """Half a period of a cosine, from 1 down to `final_ratio`."""

    name: Literal["cosine"] = "cosine"
    final_ratio: Fraction = 0.0

    def factor(self, step: int, steps: int) -> float:
        """Learning-rate multiplier at 0-based `step` of `steps`."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.warmup(step, steps) * (self.final_ratio + (1 - self.final_ratio) * cosine)


class MultiStepConfig(_ScheduleConfig):
    """Multiplied by `gamma` at each of the `milestones`, given as fractions of the run (8/12 and 11/12 for "1x")."""

    name: Literal["multistep"] = "multistep"
    milestones: tuple[Fraction, ...] = (8 / 12, 11 / 12)
    gamma: PositiveFloat = 0.1

    def factor(self, step: int, steps: int) -> float:
        """Learning-rate multiplier at 0-based `step` of `steps`."""
        passed = bisect_right([round(milestone * steps) for milestone in sorted(self.milestones)], step)
        return self.warmup(step, steps) * self.gamma**passed


class ConstantConfig(_ScheduleConfig):
    """The base rate throughout, after the warm-up."""

    name: Literal["constant"] = "constant"

    def factor(self, step: int, steps: int) -> float:
        """Learning-rate multiplier at 0-based `step` of `steps`."""
        return self.warmup(step, steps)


ScheduleConfig = Annotated[PolyConfig | CosineConfig | MultiStepConfig | ConstantConfig, Field(discriminator="name")]


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Set the rate of every parameter group to its base rate times `factor`.

    Return the rate of the last group: the parameters without a rule.
    """
    for group in optimizer.param_groups:
        base = group.setdefault("initial_lr", group["lr"])
        group["lr"] = base * factor
    rate: float = optimizer.param_groups[-1]["lr"]
    return rate
