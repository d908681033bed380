"""Parts of a model that autocast leaves as they are."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[torch.autocast | None]:
    """Context in which operators compute in the dtypes that they are given, on the device of x."""
    # The meta device, on which models are counted, has no autocast.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
