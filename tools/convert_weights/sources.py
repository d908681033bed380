"""The sources of published weights, and the function that converts each."""

from collections.abc import Callable
from functools import partial

from tools.convert_weights import depthformer, detectors, maskformer, segformer, swin
from tools.convert_weights.tensors import Converted, State


def _convert_hub(state: State, where: object) -> Converted:
    """Convert a SegFormer or a MaskFormer of the Hugging Face hub."""
    return (
        maskformer.convert_hub(state, where)
        if maskformer.is_hub(state)
        else segformer.convert("huggingface", state, where)
    )


# The values of --from. Each function raises UserError, naming its second argument, for weights of another source.
SOURCES: dict[str, Callable[[State, object], Converted]] = {
    **{name: partial(segformer.convert, name) for name in ("segformer", "mmseg")},
    "huggingface": _convert_hub,
    "maskformer": maskformer.convert_release,
    "torchvision": detectors.convert_torchvision,
    "mmdet": detectors.convert_mmdet,
    "swin": swin.convert,
    "timm": swin.convert,
    "depthformer": depthformer.convert,
}


def convert(source: str, state: State, where: object) -> Converted:
    """Convert tensors that `source` published. Raises UserError, naming `where`, for weights of another source."""
    return SOURCES[source](state, where)
