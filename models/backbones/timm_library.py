"""What the backbone of `models/backbones/timm.py` needs of the library timm: networks, their levels, their weights.

Importing timm takes seconds, so this module is imported only when such a backbone is built.
"""

import functools
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from downloads import one_at_a_time
from errors import UserError, suggest
from models.backbones.timm import Anatomy, extract, scaled
from models.base import FeatureInfo
from models.layers.simple_pyramid import STRIDES
from models.weights import read_weights
from structures import Size

KEY = "model.backbone.model"
# Options of some networks that let them take images of any size, windows as in the original Swin detectors.
FLEXIBLE = {"strict_img_size": False, "dynamic_img_size": True, "always_partition": True}
# Our names of timm's options.
OPTIONS = {"drop_path_rate": "drop_path", "img_size": "image_size", "in_chans": "in_chans"}
SECONDS_TO_ANSWER = 20.0  # of the hub
_MAX_MISSING = 3  # tensors that an error lists

logging.getLogger("timm").setLevel(logging.ERROR)  # it warns about the classifier in every file of weights


def check_name(name: str) -> None:
    """Raise UserError, with the most similar name, unless timm has a model `name`: ARCHITECTURE or ARCHITECTURE.TAG."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        valid = timm.list_pretrained() if tag else timm.list_models()
        raise UserError(KEY, f"timm {timm.__version__} has no model {name}", _suggest(name, valid))
    tags = [known for known in timm.list_pretrained(f"{architecture}.*") if "." in known]
    if tag and name not in tags:
        raise UserError(KEY, f"timm {timm.__version__} has no weights {name}", suggest(name, [architecture, *tags]))


def _suggest(name: str, valid: list[str]) -> str:
    advice = suggest(name, valid)
    return advice if advice.startswith("did you") else "see timm.list_models() in Python for the names"


def publication(name: str) -> dict[str, Any]:
    """What timm says about the weights of `name`: among others mean, std, hf_hub_id, url, license, input_size."""
    config = timm.get_pretrained_cfg(name)
    return config.to_dict() if config else {}


def create(name: str, options: Mapping[str, Any], **more: Any) -> nn.Module:
    """`timm.create_model`, for images of any size where the network has an option for that.

    Raises UserError if the network does not have one of `options`.
    """
    flexible: dict[str, Any] = {option: value for option, value in FLEXIBLE.items() if option not in options}
    while True:
        try:
            net: nn.Module = timm.create_model(name, **flexible, **options, **more)
            return net
        except TypeError as error:
            message = str(error)
            unknown = re.findall(r"'(\w+)'", message) if "unexpected keyword" in message else []
            if refused := next((option for option in unknown if option in options), None):
                raise UserError(
                    f"model.backbone.{OPTIONS[refused]}", f"{name} has no such option", "remove it"
                ) from None
            if not flexible.keys() & set(unknown):
                raise
            flexible = {option: value for option, value in flexible.items() if option not in unknown}


def build(name: str, options: Mapping[str, Any], anatomy: Anatomy, **more: Any) -> nn.Module:
    """The network that gives the levels of `anatomy`, with random weights unless `more` says otherwise."""
    if not anatomy.patch:
        return create(name, options, features_only=True, out_indices=anatomy.indices, **more)
    net: Any = create(name, options, num_classes=0, **more)
    if hasattr(net, "prune_intermediate_layers"):  # of what is left, every parameter is used
        net.prune_intermediate_layers([anatomy.indices[0]], prune_norm=False)
    network: nn.Module = net
    return network


@functools.cache
def inspect(name: str, options: tuple[tuple[str, Any], ...]) -> Anatomy:
    """Find out what a network offers, and which sizes of images it takes, by trying it on shapes alone.

    Raises UserError if it gives neither levels at strides 4, 8, 16 and 32 nor one map.
    """
    check_name(name)
    named = dict(options)
    with torch.device("meta"), torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            whole: Any = create(name, named, features_only=True)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise _no_levels(name, str(error)) from None
        anatomy = _choose_levels(name, whole.feature_info.info)
        net = build(name, named, anatomy).eval()
        native = named.get("img_size") or publication(name).get("input_size", (3, 224, 224))[-2:]
        return _find_sizes(name, net, anatomy, named.get("in_chans", 3), tuple(native))


def _choose_levels(name: str, infos: list[dict[str, Any]]) -> Anatomy:
    """The four levels or, if all maps have one size, the last; that is at the power of two nearest to the patch."""
    strides = [info["reduction"] for info in infos]
    modules = tuple(info["module"] for info in infos)
    if len(set(strides)) == 1:
        stride = min(STRIDES, key=lambda power: abs(power - strides[0]))
        return Anatomy((FeatureInfo(0, stride),), (len(infos) - 1,), modules, strides[0], (32, 32), None)
    if not set(STRIDES) <= set(strides):
        raise _no_levels(name, f"its levels are at strides {', '.join(map(str, sorted(set(strides))))}")
    chosen = tuple(max(index for index, each in enumerate(strides) if each == stride) for stride in STRIDES)
    levels = tuple(FeatureInfo(0, stride) for stride in STRIDES)
    return Anatomy(levels, chosen, tuple(modules[index] for index in chosen), 0, (32, 32), None)


def _find_sizes(name: str, net: nn.Module, anatomy: Anatomy, channels: int, native: Size) -> Anatomy:
    """Fill in the channels of the levels and the smallest step of image sizes that `net` takes, or its only size.

    net: on the meta device. native: (height, width) that it was made for; of a plain transformer, in its own pixels.
    """
    if anatomy.patch:
        native = scaled(native, anatomy.levels[0].stride, anatomy.patch)
    for step in ((32, 32), (64, 64), native):
        with suppress(Exception):  # a network may refuse a size in any way
            widths = _widths(net, anatomy, channels, (3 * step[0], 2 * step[1]))
            return anatomy._replace(levels=widths, step=step)
    try:
        return anatomy._replace(levels=_widths(net, anatomy, channels, native), step=native, only_size=native)
    except Exception as error:
        raise _no_levels(name, str(error).partition("\n")[0] or type(error).__name__) from None


def _widths(net: nn.Module, anatomy: Anatomy, channels: int, size: Size) -> tuple[FeatureInfo, ...]:
    """The levels with their channels. Raises ValueError or anything else if `net` does not take images of this size."""
    strides = [stride for _, stride in anatomy.levels]
    pixels = scaled(size, anatomy.patch, strides[0]) if anatomy.patch else size
    maps = extract(net, torch.empty(1, channels, *pixels), anatomy.patch > 0)
    sizes = [tuple(each.shape[2:]) for each in maps]
    if sizes != [scaled(size, 1, stride) for stride in strides]:
        raise ValueError(f"its maps for {size[0]} x {size[1]} pixels are {sizes}")
    return tuple(FeatureInfo(each.shape[1], stride) for each, stride in zip(maps, strides, strict=True))


def _no_levels(name: str, reason: str) -> UserError:
    what = f"{name} gives no levels at strides 4, 8, 16 and 32 ({reason})"
    return UserError(KEY, what, "choose another model, for example convnext_tiny or a plain vision transformer")


# --- weights ---------------------------------------------------------------------------------------------------------


def load_published(name: str, make: Callable[..., nn.Module]) -> nn.Module:
    """`make` the network with the weights that timm publishes for this name, from the Hugging Face hub or its cache.

    Their licence is printed when they are fetched. Raises UserError if there are none, or if they cannot be fetched.
    """
    source = publication(name)
    hub, url = source.get("hf_hub_id"), source.get("url")
    if not hub and not url:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}*")
        advice = suggest(name, tags) if tags else "set model.backbone.weights=null, or choose another model"
        raise UserError(KEY, f"timm publishes no weights for {name}", advice)
    try:
        if hub and not _is_cached(hub):
            with one_at_a_time(_folder(hub)):
                if not _is_cached(hub):  # no other process was first
                    _check_reachable()
                    net = make(pretrained=True)
                    print(f"{name}: by timm. Licence: {source.get('license') or 'not stated'}", flush=True)
                    return net
        return make(pretrained=True)
    except MemoryError:
        raise
    except Exception as error:  # of the network, the hub, the disk or the file
        place = f"{constants.ENDPOINT}/{hub}" if hub else url
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            "model.backbone.weights",
            f"{place} cannot be fetched ({reason[:200]})",
            "check the network (and that HF_HUB_OFFLINE is not set), or fetch its file of safetensors elsewhere and "
            "set model.backbone.weights=PATH",
        ) from None


def _is_cached(hub: str) -> bool:
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(hub, file), str) for file in files)


def _folder(hub: str) -> Path:
    """Where the hub's code keeps a repository. The folder above it exists afterwards."""
    Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
    return Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}"


def _check_reachable() -> None:
    """Raise URLError if the hub does not answer, for which its own code would wait minutes."""
    if not constants.HF_HUB_OFFLINE:
        with suppress(HTTPError):  # an answer, whatever it is
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=SECONDS_TO_ANSWER).close()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, a state dict or a checkpoint; averaged weights if it has them.

    No code in the file is run. Raises UserError if it is missing, damaged, has no weights, or some are not finite.
    """
    key = "model.backbone.weights"
    state = read_weights(path, key).state
    broken = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if broken:
        raise UserError(f"{key} {path}", f"holds weights that are infinite or NaN ({broken})", "use other weights")
    return state


def load_file_of_timm(path: Path, state: dict[str, Tensor], name: str, make: Callable[..., nn.Module]) -> nn.Module:
    """`make` the network with a state that has timm's names, or those that timm's filter for the network converts.

    Raises UserError if a tensor of the network is missing or has another shape.
    """
    where, advice = f"model.backbone.weights {path}", f"name weights of {name}"
    written = _WrittenTensors()
    try:
        with written:
            net = make(pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(where, f"does not fit {name}: {reason}", advice) from None
    missing = [key for key, parameter in net.named_parameters() if id(parameter) not in written.ids]
    if missing:
        listed = ", ".join(missing[:_MAX_MISSING]) + (", ..." if len(missing) > _MAX_MISSING else "")
        raise UserError(where, f"does not fit {name}: {len(missing)} tensors missing ({listed})", advice)
    return net


class _WrittenTensors(TorchFunctionMode):
    """Remembers which tensors were overwritten by `copy_`, as load_state_dict does.

    timm loads features-only networks without asking for all tensors, and reports the missing ones only to its log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.copy_:
            self.ids.add(id(args[0]))
        return func(*args, **(kwargs or {}))
