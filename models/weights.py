"""Pretrained weights from files: those that `tools.convert_weights` writes, and checkpoints of this repository."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errors import UserError, suggest

FORMAT = "denseup-weights"  # marks the files of tools.convert_weights: {"format", "source", "kind", "model"}
_NAMED = 3  # so many tensors are named in an error


def load_weights(module: nn.Module, path: Path, key: str, exclude: Sequence[str] = ()) -> None:
    """Load a converted file, or a checkpoint (its averaged weights if it has them), into `module`.

    key: what names the file in the YAML, for errors. exclude: see `load_state`.
    Raises UserError if the file is missing, damaged, of another kind, or of another network.
    """
    where = f"{key} {path}"
    content = read_tensor_file(path, where)
    state = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(where, "is neither converted weights nor a checkpoint", "convert it: tools.convert_weights")
    kind = f"{where} ({content['kind']})" if "kind" in content else where
    load_state(module, state, kind, exclude)


def load_state(module: nn.Module, state: Mapping[str, Tensor], where: object, exclude: Sequence[str] = ()) -> None:
    """Load all of `state` into all of `module`, but for tensors of the submodules that `exclude` names.

    Raises UserError, naming `where`, if a name or a shape does not fit or an exclusion matches nothing.
    """
    own = module.state_dict()
    for prefix in exclude:
        if not any(_below(name, prefix) for name in own):
            parents = sorted({name.rpartition(".")[0] for name in own})
            raise UserError("model.weights_exclude", f"the model has no {prefix}", suggest(prefix, parents))
    wanted, given = (
        {name: value for name, value in tensors.items() if not any(_below(name, prefix) for prefix in exclude)}
        for tensors in (own, state)
    )
    check_state(wanted, given, where)
    module.load_state_dict(own | given)


def check_state(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: object) -> None:
    """Raise UserError, naming `where`, unless both have the same names and shapes."""
    misfits = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {list(given[name].shape)}, here {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
    }
    problems = [f"{len(names)} tensors {kind} ({_first(names)})" for kind, names in misfits.items() if names]
    if problems:
        advice = "name weights of this very network, or leave out what differs by model.weights_exclude"
        raise UserError(where, f"does not fit the model: {', '.join(problems)}", advice)


def read_tensor_file(path: Path, where: object) -> Any:
    """What torch.save wrote to `path`: tensors and plain values, nothing that could run code. On CPU."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(where, "no such file", "correct the path, or fetch the weights as the README says") from None
    except OSError as error:
        raise UserError(where, f"cannot be read ({error.strerror or error})", "name a readable file") from None
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked is None:
            raise _damaged(where) from None
        what = f"holds more than tensors ({blocked[1]}), and loading that could run code"
        raise UserError(where, what, "save its state_dict alone where the file comes from, then use that") from None
    except Exception:  # a damaged file can fail in any way
        raise _damaged(where) from None


def _damaged(where: object) -> UserError:
    return UserError(where, "is damaged, or no file of PyTorch", "fetch or convert it again")


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix.removesuffix('.')}.")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
