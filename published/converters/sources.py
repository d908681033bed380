"""The sources of published weights, and the function that converts each."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from errors import UserError
from models.wrappers import with_prefix
from published.converters import depthformer, detectors, efficientnet, maskformer, segformer, swin
from published.converters.tensors import Converted, State


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
    "efficientnet": efficientnet.convert,
}


def convert(source: str, state: State, where: object) -> Converted:
    """Convert tensors that `source` published. Raises UserError, naming `where`, for weights of another source.

    If all names but those of a classifier begin with `backbone.` or `encoder.`, and the source has no network of such
    names, they are those of a backbone.
    """
    try:
        return SOURCES[source](state, where)
    except UserError:
        for outer in ("backbone.", "encoder."):
            if all(name.startswith((outer, "fc.", "head.", "classifier.")) for name in state):
                with suppress(UserError):
                    return SOURCES[source](with_prefix(state, outer), where)
        raise
