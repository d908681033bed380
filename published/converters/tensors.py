"""Shared by all converters: move tensors from published names to ours, and check that none is left over.

A converter moves tensors out of `remaining` (published names) into `converted` (our names).
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch

from errors import UserError
from models.wrappers import State
from upsamplers import NAMES, build_upsampler, load_published

# An upsampler is recognised by its tensors: it is the first of these that loads them.
UPSAMPLERS: list[Any] = [*NAMES, {"name": "fade", "gate": True}, {"name": "sapa", "norm": "group"}]
BIASED: list[Any] = [{"name": name, "scope_bias": True} for name in ("dysample+", "dysample-s+")]  # an early version


class Converted(NamedTuple):
    """kind: the network. model: its tensors under our names. remark: a message for the user.

    settings: the `model` of a configuration that these tensors fit, without weights; None: they are a backbone.
    num_classes: its classes; 0 for depth.
    """

    kind: str
    model: State
    remark: str
    settings: dict[str, Any] | None = None
    num_classes: int = 0


def move_module(remaining: State, published: tuple[str, ...], converted: State, ours: str) -> None:
    """Move a module's tensors to `converted` under our name. Several published modules: concatenate their rows."""
    for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        names = [f"{name}.{tensor}" for name in published]
        if all(name in remaining for name in names):
            parts = [remaining.pop(name) for name in names]
            converted[f"{ours}.{tensor}"] = parts[0] if len(parts) == 1 else torch.cat(parts)


def recognise_upsampler(stages: Sequence[State], channels: int) -> tuple[State, Any] | None:
    """Find the upsampler that these published tensors belong to, one dictionary per stage. None if it is unknown.

    Returns the tensors under our names, with the number of the stage as prefix, and the upsampler's YAML value.
    """
    for candidate in BIASED if "scope.bias" in stages[0] else UPSAMPLERS:
        modules = torch.nn.ModuleList()
        try:
            for weights in stages:
                module = build_upsampler(candidate, channels)
                load_published(module, weights)
                modules.append(module)
        except ValueError:  # these are the weights of another upsampler
            continue
        return dict(modules.state_dict()), candidate
    return None


def check_leftovers(remaining: State, dropped: Collection[str], where: object) -> str:
    """Return a remark on the tensors that are not used. Raises UserError if any remains that is not in `dropped`."""
    unknown = sorted(remaining.keys() - set(dropped))
    if unknown:
        raise UserError(where, f"{len(unknown)} unknown tensors ({list_names(unknown)})", "check --from")
    return f"dropped {len(dropped)} tensors that the model does not use" if dropped else "all tensors used"


def list_names(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
