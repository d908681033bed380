"""Published weights into ours, one module for each family of networks."""

from collections.abc import Callable
from functools import partial

from tools.convert_weights import depthformer, detectors, maskformer, segformer, swin
from tools.convert_weights.tensors import Converted, State


def _convert_hub(state: State, where: object) -> Converted:
    """A SegFormer or a MaskFormer of the hub."""
    return (
        maskformer.convert_hub(state, where)
        if maskformer.is_hub(state)
        else segformer.convert("huggingface", state, where)
    )


# What --from may say. Each raises UserError, naming the second argument, if these are not weights of that source.
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
    """Convert tensors that `source` published. Raises UserError, naming `where`, if they are no weights of it."""
    return SOURCES[source](state, where)
