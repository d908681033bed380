"""Learning-rate schedules as functions of the step, so that resuming needs no state."""

import math
from bisect import bisect_right
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat
from torch.optim import Optimizer

from config import Fraction, Schema
from runtime.length import StepsOrShare, share_of


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
