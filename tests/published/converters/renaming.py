"""Change the names of tensors by patterns."""

import re
from typing import Any

from torch import Tensor


def renamed(state: dict[str, Tensor], *rules: tuple[str, Any]) -> dict[str, Tensor]:
    """The same tensors, each name after all replacements of (pattern, replacement), in order."""
    result = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result
