"""Files of random weights as the publishers of the index write them: their names, shapes and formats.

The names and shapes come from timm and torchvision where these publish the file, and else from the tables and second
networks in `converters/`, which know nothing of our converters.
"""

import io
import pickle
from collections.abc import Mapping

import timm
import torch
import torchvision
from safetensors.torch import save
from torch import Tensor

from models.maskformer.model import MaskFormerConfig
from published.index import Entry
from structures import DatasetInfo
from tests.published.converters.reference_depthformer import toolbox_state
from tests.published.converters.reference_maskformer import RELEASED_RESNET, published
from tests.published.converters.reference_mmdet import DYSAMPLE, DYSAMPLE_PLUS_EARLY, detector, upsamplers
from tests.published.converters.reference_segformer import hub_state
from tests.published.converters.renaming import in_old_names, renamed

State = dict[str, Tensor]


def published_state(entry: Entry) -> State:
    """Random tensors under the published names."""
    return LAYOUTS[entry.converter](entry)


def published_file(entry: Entry, state: State) -> bytes:
    """The file in which an entry is published, with these tensors."""
    if entry.file.endswith(".safetensors"):
        return save(state)
    if entry.file.endswith(".pkl"):
        arrays = {name: value.numpy() for name, value in state.items()}
        return pickle.dumps({"model": arrays, "__author__": "third_party"})
    wrapped = {"meta": {"epoch": 12}, "state_dict": state} if entry.converter in ("mmdet", "depthformer") else state
    file = io.BytesIO()
    torch.save(wrapped, file)
    return file.getvalue()


def drawn(shapes: Mapping[str, Tensor]) -> State:
    """Random numbers from 0.5 to 1.5 in the place of floating-point tensors without data, and zeros of the others."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator).add_(0.5)
        if value.is_floating_point()
        else torch.zeros(value.shape, dtype=value.dtype)
        for name, value in shapes.items()
    }


def _of_hub(entry: Entry) -> State:
    size = next(size for size in ("b0", "b1", "b2", "b3", "b4", "b5") if f"_{size}_" in entry.name)
    state = hub_state(150, size)
    if entry.cfg:
        return state
    encoder = {name: value for name, value in state.items() if not name.startswith("decode_head.")}
    width = len(state["segformer.encoder.layer_norm.3.weight"])
    return encoder | drawn({"classifier.weight": torch.empty(1000, width), "classifier.bias": torch.empty(1000)})


def _of_torchvision(entry: Entry) -> State:
    name = {"faster": "fasterrcnn_resnet50_fpn", "mask": "maskrcnn_resnet50_fpn"}.get(entry.name.split("_")[0])
    options = {} if name is None else {"weights_backbone": None}
    with torch.device("meta"):
        state = torchvision.models.get_model(name or entry.name.split("_")[0], weights=None, **options).state_dict()
    return (
        drawn(state)
        if name is None
        else in_old_names(drawn({key: value for key, value in state.items() if "num_batches_tracked" not in key}))
    )


def _of_timm(entry: Entry) -> State:
    assert entry.hub is not None
    with torch.device("meta"):
        shapes = timm.create_model(entry.hub.repo.removeprefix("timm/")).state_dict()
    return drawn(shapes)


def _of_maskformer(entry: Entry) -> State:
    kind = next(kind for kind in ("swin_b", "swin_l", "r50", "r101") if f"_{kind}_" in entry.name)
    is_resnet = kind.startswith("r")
    options = {"backbone": kind.replace("r", "resnet") if is_resnet else kind, "upsampler": "nearest"}
    options |= {"encoder_layers": 6} if is_resnet else {}
    classes = tuple(map(str, range(133 if is_resnet else 150)))
    with torch.device("meta"):
        config = MaskFormerConfig.model_validate(options)
        shapes = config.build(DatasetInfo("semantic", "any", classes), pretrained=False).state_dict()
    ours = drawn(shapes)
    return published("maskformer", renamed(ours, *RELEASED_RESNET) if is_resnet else ours)


def _of_mmdet(entry: Entry) -> State:
    has_masks = not entry.name.startswith("faster")
    depth, stuff = 101 if "_r101_" in entry.name else 50, 53 if entry.name.startswith("panoptic") else None
    state = detector(depth=depth, masks=has_masks, stuff=stuff)
    if "dysample" in entry.name:
        shapes = DYSAMPLE_PLUS_EARLY if entry.name.endswith("_plus") else DYSAMPLE
        state |= upsamplers(3, "neck.upsample_modules.", **shapes)
    return state


LAYOUTS = {
    "huggingface": _of_hub,
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "maskformer": _of_maskformer,
    "mmdet": _of_mmdet,
    "depthformer": lambda _: toolbox_state(),
}
