"""Load pretrained weights from files that `tools.convert_weights` wrote, or from checkpoints of this repository."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from errors import UserError, suggest
from storage import check_state, is_state, read_tensors

FORMAT = "denseup-weights"  # marks the files of tools.convert_weights: {"format", "source", "kind", "model"}


def load_weights(module: nn.Module, path: Path, key: str, exclude: Sequence[str] = ()) -> None:
    """Load a converted file, or a checkpoint (its averaged weights if it has them), into `module`.

    key: the YAML key that names the file, for error messages. exclude: see `load_state`.
    Raises UserError if the file is missing, damaged, not a weights file, or of another network.
    """
    where = f"{key} {path}"
    content = read_tensors(path, where)
    state = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if state is None or not is_state(state):
        raise UserError(where, "is neither converted weights nor a checkpoint", "convert it: tools.convert_weights")
    kind = f"{where} ({content['kind']})" if "kind" in content else where
    load_state(module, state, kind, exclude)


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
