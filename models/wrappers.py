"""Take off what training code wraps around a model: containers in files, and prefixes of the names of tensors."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from storage import is_state

State = dict[str, Tensor]

# Keys of the files of training code. An average of the weights comes before the weights themselves.
AVERAGES = (
    *("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema", "ema_state", "model_ema_state_dict"),
    *("ema_net", "averaged_model", "shadow"),
)
MODELS = ("state_dict", "model", "model_state", "model_state_dict", "module", "net", "network", "weights", "params")
MAX_NESTING = 6  # containers in containers

# Parts of a name, at any place, that torch.compile, DistributedDataParallel and FSDP add to it.
ADDED = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# First parts of all names, if the attribute of the training code that holds the model is called so.
OUTER = ("model", "net", "network")
# First parts of the names of what training code keeps beside the model, and counters of averages.
BESIDE = ("criterion", "loss", "loss_fn", "metric", "metrics")
COUNTERS = frozenset({"n_averaged", "num_updates", "updates", "steps", "decay"})


def unwrap(content: Any, as_state: Callable[[Any], State | None]) -> tuple[State, str] | None:
    """Find the tensors of a model in the content of a file. Return them by their names in the model, and a remark.

    as_state: turns a dictionary of tensors into a state dict; None for anything else. remark: which were taken if the
    file holds both weights and their average, else empty. None: the file holds no tensors of a model.
    """
    return _unwrap(content, as_state, MAX_NESTING)


def state_or_none(content: Any) -> State | None:
    """`content` if it is a state dict with at least one tensor, else None."""
    return content if content and is_state(content) else None


def _unwrap(content: Any, as_state: Callable[[Any], State | None], depth: int) -> tuple[State, str] | None:
    if not isinstance(content, dict) or not depth:
        return None
    state = as_state(content)
    if state is not None:
        return unwrap_names(state)
    found = {key: _unwrap(content[key], as_state, depth - 1) for key in (*AVERAGES, *MODELS) if key in content}
    usable = {key: item for key, item in found.items() if item is not None}
    averages, models = ([key for key in keys if key in usable] for keys in (AVERAGES, MODELS))
    if "ema_state_dict" in averages and "steps" in content["ema_state_dict"] and "state_dict" in models:
        # MMEngine exchanges the two when it saves, so that its state_dict can be used as it is.
        return usable["state_dict"][0], "the average of the weights, which this file calls state_dict"
    if averages and models:
        return usable[averages[0]][0], f"the average of the weights ({averages[0]}), not {models[0]}"
    return next(iter(usable.values()), None)


def unwrap_names(state: Mapping[str, Tensor]) -> tuple[State, str]:
    """Take the prefixes of wrappers off the names, in any order. Return the tensors and a remark, see `unwrap`."""
    names = {name: ".".join(part for part in name.split(".") if part not in ADDED) for name in state}
    if len(set(names.values())) < len(names):
        return dict(state), ""
    state = {names[name]: value for name, value in state.items()}
    remark, average = _choose(state)
    if average is not None:
        inner, more = unwrap_names(average)
        return inner, remark or more
    for outer in OUTER:
        inside = _inside(state, outer)
        if inside and all(_first(name) in (outer, *BESIDE) or name in COUNTERS for name in state):
            return unwrap_names(inside)
    return {name: value for name, value in state.items() if name not in COUNTERS}, ""


def _choose(state: State) -> tuple[str, State | None]:
    """A remark, and the tensors to go on with if some are those of an average of the weights."""
    for key in AVERAGES:
        average = _inside(state, key)
        rest = {name: value for name, value in state.items() if _first(name) != key and name not in COUNTERS}
        if not average:
            continue
        if not rest:
            return "", average
        if _names(rest) <= _names(average):
            return f"the average of the weights ({key}), not the weights themselves", average
        return f"the weights themselves, not their average ({key}), which is not complete", rest
    # MMCV keeps the other copy under flat names. Like MMEngine, it exchanges the two before it saves.
    flat = {f"ema_{name.replace('.', '_')}" for name in state} & state.keys()
    if flat:
        rest = {name: value for name, value in state.items() if name not in flat}
        return "the average of the weights, which this file holds under the names of the model", rest
    return "", None


def _names(state: Mapping[str, Tensor]) -> set[str]:
    """The names of the model's tensors, without what training code keeps beside it."""
    return {name for name in unwrap_names(state)[0] if _first(name) not in BESIDE}


def _inside(state: Mapping[str, Tensor], first: str) -> State:
    return with_prefix(state, f"{first}.")


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors whose names begin with `prefix`, which is taken off."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _first(name: str) -> str:
    return name.partition(".")[0]
