"""Pretrained weights: which ones a model starts from, and how they are loaded.

They are files that `tools.convert_weights` wrote, or checkpoints of this repository. The word `imagenet` in place of a
file means the ImageNet weights that the recipe of a backbone starts from (`Published`). It says that the user has not
decided yet: training does not start with it (`check_start`), everything else takes random numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from errors import UserError, suggest
from models.wrappers import State, state_or_none, unwrap, with_prefix
from storage import check_is_file, check_state, read_tensors

FORMAT = "denseup-weights"  # marks the files of tools.convert_weights: {"format", "source", "kind", "model"}
IMAGENET = Path("imagenet")


class Published(NamedTuple):
    """ImageNet weights of a backbone. file: the published one. source: the `--from` of tools.convert_weights.

    is_fetched: the backbone fetches and converts them itself.
    """

    file: str
    publisher: str
    url: str
    source: str
    is_fetched: bool = False

    def commands(self, ours: str) -> str:
        """The shell commands that fetch the file and convert it into `ours`."""
        convert = f"python -m tools.convert_weights --from {self.source} {self.file} {ours}"
        return f"curl -L -o {self.file} {self.url} && {convert}"


def check_start(name: str, weights: Path | None, published: Published | None, fixed: str, where: str) -> None:
    """Raise UserError, naming `where`, unless the user has named or declined (None) what a backbone starts from.

    name: of the backbone. published: None if no weights of these sizes are known. fixed: what training does not change,
    in words; "" if it changes all. Such parts would stay random, so these weights cannot be declined.
    """
    if weights not in (None, IMAGENET):
        check_is_file(weights, f"{where} {weights}")
        return
    if not fixed if weights is None else published and published.is_fetched:
        return
    key, file = "model.backbone.weights", f"weights/{name}.pt"
    if weights is None:
        what = f"null would leave {fixed} at values without meaning, since training does not change them"
    elif published:
        what = "imagenet stands for weights that the recipe starts from, and that are not fetched by themselves"
    else:
        what = f"no ImageNet weights are published for a {name} of these sizes"
    choices = []
    if published and published.is_fetched:
        choices.append(f"add {key}=imagenet")
    elif published:
        steps = f"fetch and convert {published.file} of {published.publisher} ({published.commands(file)})"
        choices.append(f"{steps}, then add {key}={file}")
    if not fixed:
        choices.append(f"add {key}=null to start from random numbers")
    raise UserError(where, what, "; or ".join(choices) or f"add {key}=FILE")


def replaces_backbone(weights: Path | None, exclude: Sequence[str]) -> bool:
    """Whether `model.weights` gives the backbone all its weights, so that it needs none of its own."""
    touched = (_belongs_to("backbone", name) or _belongs_to(name, "backbone") for name in exclude)
    return weights is not None and not any(touched)


def load_pretrained(module: nn.Module, path: Path | None, key: str, exclude: Sequence[str] = ()) -> None:
    """Do `load_weights` if `path` is a file; nothing for None and for the word `imagenet`."""
    if path not in (None, IMAGENET):
        load_weights(module, path, key, exclude)


def load_weights(module: nn.Module, path: Path, key: str, exclude: Sequence[str] = ()) -> None:
    """Load a converted file, or a checkpoint (its averaged weights if it has them), into `module`.

    If `module` is a backbone, the file may also hold a whole model. key: the YAML key that names the file, for error
    messages. exclude: see `load_state`.
    Raises UserError if the file is missing, damaged, not a weights file, or of another network.
    """
    weights, own = read_weights(path, key), module.state_dict().keys()
    state = weights.state
    for part in ("backbone.", "encoder."):
        if state.keys() != own and with_prefix(state, part).keys() == own:
            state = with_prefix(state, part)
    if weights.is_foreign and state.keys() != own:
        raise _no_weights(f"{key} {path}")
    load_state(module, state, f"{key} {path} ({weights.kind})" if weights.kind else f"{key} {path}", exclude)


class Weights(NamedTuple):
    """The content of a file. kind: of the network, if the file says it. remark: see models/wrappers.py.

    is_foreign: neither written by tools.convert_weights nor a checkpoint of this repository.
    """

    state: State
    kind: str
    remark: str
    is_foreign: bool


def read_weights(path: Path, key: str) -> Weights:
    """Read a file of weights. Raises UserError if there are none in it; for key and other errors see `load_weights`."""
    where = f"{key} {path}"
    content = _read_safetensors(path, where) if path.suffix == ".safetensors" else read_tensors(path, where)
    found = unwrap(content, state_or_none)
    if found is None:
        raise _no_weights(f"{key} {path}")
    kind = content.get("kind", "")
    is_foreign = not isinstance(content.get("model"), dict)
    return Weights(found[0], kind if isinstance(kind, str) else "", found[1], is_foreign)


def _read_safetensors(path: Path, where: str) -> State:
    """Read a .safetensors file, a format without code. Raises UserError, naming `where`."""
    check_is_file(path, where)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(where, f"is damaged ({str(error)[:100]})", "fetch it again") from None


def _no_weights(where: str) -> UserError:
    return UserError(where, "is neither converted weights nor a checkpoint", "convert it: tools.convert_weights")


def load_state(module: nn.Module, state: Mapping[str, Tensor], where: object, exclude: Sequence[str] = ()) -> None:
    """Load all of `state` into all of `module`, except for the tensors and submodules that `exclude` names.

    Raises UserError, naming `where`, if a name, a shape, a type or a value (NaN) does not fit, or if a name in
    `exclude` matches nothing.
    """
    own = module.state_dict()
    for prefix in exclude:
        if not any(_belongs_to(name, prefix) for name in own):
            parents = sorted({name.rpartition(".")[0] for name in own})
            raise UserError("model.weights_exclude", f"the model has no {prefix}", suggest(prefix, parents))
    wanted, given = (
        {name: value for name, value in tensors.items() if not any(_belongs_to(name, prefix) for prefix in exclude)}
        for tensors in (own, state)
    )
    check_state(wanted, given, where)
    module.load_state_dict(own | given)


def _belongs_to(name: str, prefix: str) -> bool:
    """Whether the tensor `name` is `prefix` itself or inside the submodule `prefix`."""
    return name == prefix or name.startswith(f"{prefix.removesuffix('.')}.")
