"""Pretrained weights: which ones a model starts from, and how they are loaded.

A model's settings name a file (one that `tools.convert_weights` wrote, or a checkpoint of this repository), a URL of
such a file, or a name of the index in `published/`. The word `imagenet` means the ImageNet weights that the recipe of a
backbone starts from (`Published`). None, in YAML null, means random numbers. Names and URLs are exchanged for files
before a model is built (experiment.py).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator
from safetensors import SafetensorError, safe_open
from torch import Size, Tensor, nn

from errors import UserError, suggest
from models.wrappers import State, state_or_none, unwrap, with_prefix
from storage import check_is_file, check_state, read_tensors

# Marks the files of tools.convert_weights, {"format", "source", "kind", "model", "config"}, and those in the cache.
FORMAT = "denseup-weights"
IMAGENET = "imagenet"
UNUSED = "not used here"
# What depends on the upsampler or on the number of classes, by the names that all models give these parts.
_REPLACEABLE = re.compile(r"(?:.*?\.)?(?:upsamplers?|classifier|box_head\.deltas)(?=\.|$)")
# A file, a URL, a name of the index, or `imagenet`.
Source = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


class Published(NamedTuple):
    """ImageNet weights of a backbone: a name of the index, or of a model of timm, which fetches them itself."""

    name: str
    by_timm: bool = False


def check_start(name: str, weights: str | None, published: Published | None, fixed: str, where: str) -> None:
    """Raise UserError, naming `where`, if a backbone cannot start from what is set.

    name: of the backbone. published: None if no weights of these sizes are known. fixed: what training does not change,
    in words; "" if it changes all. Such parts would stay random, so these weights cannot be declined.
    """
    if weights not in (None, IMAGENET) or (published if weights else not fixed):
        return
    key = "model.backbone.weights"
    if weights is None:
        what = f"null would leave {fixed} at values without meaning, since training does not change them"
    else:
        what = f"no ImageNet weights are published for a {name} of these sizes"
    choices = [f"add {key}=imagenet"] if published else []
    if not fixed:
        choices.append(f"add {key}=null to start from random numbers")
    raise UserError(where, what, "; or ".join(choices) or f"add {key}=FILE")


def replaces_backbone(weights: str | None, exclude: Sequence[str]) -> bool:
    """Whether `model.weights` gives the backbone all its weights, so that it needs none of its own."""
    touched = (_belongs_to("backbone", name) or _belongs_to(name, "backbone") for name in exclude)
    return weights is not None and not any(touched)


def load_pretrained(module: nn.Module, file: str | None, key: str) -> None:
    """Do `load_weights` if `file` is a file; nothing for None and for the word `imagenet`."""
    if file not in (None, IMAGENET):
        load_weights(module, file, key)


def load_start(model: nn.Module, file: Path | str, exclude: Sequence[str]) -> dict[str, str]:
    """Load what `model.weights` names into a model that is to learn, except for the parts that `exclude` names.

    Upsamplers and layers with outputs for each class keep their initial values, too, if the file has others or none.
    Returns these parts, dotted names, each with the reason. For the file and errors see `load_weights`.
    """
    path, own = Path(file).expanduser(), model.state_dict()
    weights = read_weights(path, "model.weights")
    for name in exclude:
        if not any(_belongs_to(tensor, name) for tensor in own) and not _REPLACEABLE.fullmatch(name):
            parents = sorted({tensor.rpartition(".")[0] for tensor in own})
            raise UserError("model.weights_exclude", f"the model has no {name}", suggest(name, parents))
    left_out = {} if weights.is_foreign else _misfits(_without(own, exclude), _without(weights.state, exclude))
    _load(model, weights, f"model.weights {path}", [*exclude, *left_out], may_exclude=True)
    return left_out


def _misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """The replaceable parts of which a model has other tensors than it is given, with the reason."""
    sides: list[dict[str, dict[str, Size]]] = []
    for tensors in (own, given):
        sides.append({})
        for name, tensor in tensors.items():
            if part := _REPLACEABLE.match(name):
                sides[-1].setdefault(part[0], {})[name] = tensor.shape
    ours, theirs = sides
    reasons = {part: "missing there" if part not in theirs else "different there" for part in ours}
    reasons |= {part: UNUSED for part in theirs if part not in ours}
    return {part: reason for part, reason in reasons.items() if ours.get(part) != theirs.get(part)}


def load_weights(module: nn.Module, file: Path | str, key: str) -> None:
    """Load a converted file, or a checkpoint (its averaged weights if it has them), into all of `module`.

    If `module` is a backbone, the file may also hold a whole model. key: the YAML key that names the file, for error
    messages.
    Raises UserError if the file is missing, damaged, not a weights file, or of another network.
    """
    path = Path(file).expanduser()
    _load(module, read_weights(path, key), f"{key} {path}")


def _load(
    module: nn.Module, weights: "Weights", where: str, exclude: Sequence[str] = (), may_exclude: bool = False
) -> None:
    state, own = weights.state, module.state_dict().keys()
    for part in ("backbone.", "encoder."):
        if state.keys() != own and with_prefix(state, part).keys() == own:
            state = with_prefix(state, part)
    if weights.is_foreign and state.keys() != own:
        raise _no_weights(where)
    load_state(module, state, f"{where} ({weights.kind})" if weights.kind else where, exclude, may_exclude)


class Weights(NamedTuple):
    """The content of a file. kind: of the network, if the file says it. remark: see models/wrappers.py.

    is_foreign: neither written by tools.convert_weights nor a checkpoint of this repository. converted: written by
    tools.convert_weights, or in the cache. config: the configuration that such a model fits, if the file has one.
    Of a file in the cache, name: of the index; settings: those of `model` that its tensors tell.
    """

    state: State
    kind: str
    remark: str
    is_foreign: bool
    converted: bool
    config: dict[str, Any] | None
    name: str
    settings: dict[str, Any]


def read_weights(path: Path, key: str) -> Weights:
    """Read a file of weights. Raises UserError if there are none in it; for key and other errors see `load_weights`."""
    where = f"{key} {path}"
    content = _read_safetensors(path, where) if path.suffix == ".safetensors" else read_tensors(path, where)
    found = unwrap(content, state_or_none)
    if found is None:
        raise _no_weights(f"{key} {path}")
    kind, name = (text if isinstance(text := content.get(key), str) else "" for key in ("kind", "name"))
    is_foreign = not isinstance(content.get("model"), dict)
    converted = content.get("format") == FORMAT
    config, settings = (fact if isinstance(fact := content.get(key), dict) else {} for key in ("config", "settings"))
    return Weights(found[0], kind, found[1], is_foreign, converted, (converted and config) or None, name, settings)


def _read_safetensors(path: Path, where: str) -> dict[str, object]:
    """Read a .safetensors file, a format without code. Raises UserError, naming `where`."""
    check_is_file(path, where)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
            return {**facts, "model": tensors, **({"format": FORMAT} if facts else {})}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(where, f"is damaged ({str(error)[:100]})", "fetch it again") from None


def _no_weights(where: str) -> UserError:
    return UserError(where, "is neither converted weights nor a checkpoint", "convert it: tools.convert_weights")


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    where: object,
    exclude: Sequence[str] = (),
    may_exclude: bool = False,
) -> None:
    """Load all of `state` into all of `module`, except for the tensors and submodules that `exclude` names.

    Raises UserError, naming `where`, if a name, a shape, a type or a value (NaN) does not fit.
    """
    own, given = module.state_dict(), _without(state, exclude)
    check_state(_without(own, exclude), given, where, may_exclude)
    module.load_state_dict(own | given)


def _without(tensors: Mapping[str, Tensor], exclude: Sequence[str]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not any(_belongs_to(name, part) for part in exclude)}


def _belongs_to(name: str, prefix: str) -> bool:
    """Whether the tensor `name` is `prefix` itself or inside the submodule `prefix`."""
    return name == prefix or name.startswith(f"{prefix.removesuffix('.')}.")
