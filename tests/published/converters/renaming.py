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


def in_old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a detector of torchvision as in the published files, which older versions wrote."""
    rules = [
        (r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2."),
        (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
        (r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}."),
    ]
    return renamed(state, *rules)
