"""What the converters of all publishers share: tensors go from their names to ours, and every one is accounted for."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from errors import UserError
from upsamplers import PAPER_NAMES, build_upsampler, load_published

State = dict[str, Tensor]

# What an upsampler is told by: the first of these that takes its tensors.
UPSAMPLERS: list[Any] = [*PAPER_NAMES, {"name": "fade", "gate": True}, {"name": "sapa", "norm": "group"}]
BIASED: list[Any] = [{"name": name, "scope_bias": True} for name in ("dysample+", "dysample-s+")]  # the early form


class Converted(NamedTuple):
    """What network the tensors are of, the tensors by our names, and a remark for the user."""

    kind: str
    model: State
    remark: str


def move(left: State, published: tuple[str, ...], taken: State, ours: str) -> None:
    """Move a module's tensors from `left` to `taken`, under our name. Of several modules: rows one after another."""
    for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        names = [f"{name}.{tensor}" for name in published]
        if all(name in left for name in names):
            parts = [left.pop(name) for name in names]
            taken[f"{ours}.{tensor}"] = parts[0] if len(parts) == 1 else torch.cat(parts)


def below(state: State, prefix: str) -> State:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def recognise(stages: Sequence[State], channels: int, guide_channels: int | None = None) -> tuple[State, Any] | None:
    """Which upsampler these are published weights of, one dictionary a stage; None if of none that is known.

    Returns them by our names, each after the number of its stage, and what the YAML calls the upsampler.
    """
    for candidate in BIASED if "scope.bias" in stages[0] else UPSAMPLERS:
        modules = torch.nn.ModuleList()
        try:
            for weights in stages:
                module = build_upsampler(candidate, channels, guide_channels)
                load_published(module, weights)
                modules.append(module)
        except ValueError:  # these are weights of another upsampler
            continue
        return dict(modules.state_dict()), candidate
    return None


def account(left: State, dropped: Collection[str], where: object) -> str:
    """A remark on the tensors that are left over. Raises UserError if any is not among the `dropped`."""
    unknown = sorted(left.keys() - set(dropped))
    if unknown:
        raise UserError(where, f"{len(unknown)} unknown tensors ({first(unknown)})", "check --from")
    return f"dropped {len(dropped)} tensors that the model does not use" if dropped else "all tensors used"


def first(names: Sequence[str]) -> str:
    """The first three of them."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
