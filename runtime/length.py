"""Lengths of a run: a number of optimiser steps, a number of epochs, or a share of the run.

Steps are a number. `12 epochs` is that many passes over the training images, `5 %` that share of the run's steps.
"""

import re
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

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
