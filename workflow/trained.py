"""Find and load a trained model."""

import json
from pathlib import Path
from typing import Literal

from config import read_overrides
from config.plain_yaml import parse_file
from errors import UserError, suggest
from experiment import Experiment, load_experiment, make_experiment
from models.base import DenseModel
from models.weights import Weights, load_state, load_weights, read_weights
from published.cache import obtain
from published.index import ROOT, Entry, entries, find
from runtime.checkpoint import is_checkpoint, load_checkpoint
from runtime.memory import EVALUATION, WINDOWS, keep_freed_memory
from workflow.onnx_model import OnnxModel

READ = ("neck", "upsampler")  # settings of a published detector that its tensors tell; its authors do not


def find_checkpoint(path: Path, which: Literal["best", "last"] = "best") -> Path:
    """Find the checkpoint that `path` names: a file, the best or last checkpoint of a run folder, or a published model.

    A run that has not been evaluated has no best checkpoint; then the last one is taken. Raises UserError if a folder
    holds none, or if `path` names a configuration.
    """
    if path.suffix in (".yaml", ".yml"):
        raise UserError(path, "is a configuration, not a checkpoint", "name a .pt file or the folder of a run")
    if not path.is_dir():
        return path
    for folder in (path / "checkpoints", path):
        for name in ("best", "last", "previous"):
            if (folder / f"{name}.pt").exists() and (which, name) != ("last", "best"):
                return folder / f"{name}.pt"
    raise UserError(path, "holds no checkpoint", "name a .pt file or the folder of a run that has saved one")


def load_trained(path: Path, cfg: Path | None, overrides: list[str]) -> tuple[Experiment, DenseModel, int]:
    """Load the experiment of a checkpoint (or of `cfg`), the model with its trained weights, and its step.

    If the run kept a moving average of the weights, the average is loaded. `path` may also be the name of a published
    model (published/index.yaml), which is fetched, or a file written by tools.convert_weights; the step of both is 0.
    Raises UserError if something is wrong with the files.
    """
    if path.suffix == ".onnx":
        raise UserError(path, "is an exported file, which can only predict", "name the checkpoint that it is made of")
    if not path.exists() and path.name == str(path) and not path.suffix and path.name not in entries():
        what = "is neither a checkpoint, a run folder nor a published model"
        raise UserError(path, what, f"{suggest(path.name, list(entries()))} (python -m tools.weights lists them)")
    if not path.exists() and str(path) in entries():
        _check_predicts(find(str(path)))
        path = obtain(str(path))
    if path.is_file() and not is_checkpoint(path):
        return *_load_converted(path, cfg, overrides), 0
    state = load_checkpoint(path)
    if cfg is None:
        experiment = make_experiment(read_overrides(state["config"], overrides, Experiment), str(path))
    else:
        experiment = load_experiment(cfg, overrides)
    model = experiment.build_model(pretrained=False)
    load_state(model, state["ema"] or state["model"], path)
    return experiment, model, state["step"]


def load_predicting(path: Path, cfg: Path | None, overrides: list[str]) -> tuple[Experiment, DenseModel, int]:
    """`load_trained` for what only predicts: `path` may also be a file of `tools.export_onnx --full`; its step is 0."""
    if path.suffix == ".onnx":
        return *_load_onnx(path, cfg, overrides), 0
    return load_trained(path, cfg, overrides)


def keep_memory(experiment: Experiment) -> None:
    """Speed up predictions on a CPU, see runtime/memory.py, unless `system.reuse_memory` is false."""
    inference = experiment.evaluation.inference
    if experiment.system.reuse_memory:
        keep_freed_memory(EVALUATION if inference is None or inference.windows is None else WINDOWS)


def _check_predicts(entry: Entry) -> None:
    if entry.cfg is None:
        advice = f"name it as model.backbone.weights={entry.name} in training"
        raise UserError(entry.name, "are the weights of a backbone, which predicts nothing", advice)


def _load_converted(path: Path, cfg: Path | None, overrides: list[str]) -> tuple[Experiment, DenseModel]:
    """Load converted weights, by `cfg`, else by the configuration that the file, or the entry of the index, has."""
    weights = read_weights(path, "--checkpoint")
    if cfg is not None:
        experiment = load_experiment(cfg, overrides)
    elif weights.name in entries():
        entry = find(weights.name)
        _check_predicts(entry)
        read = [f"model.{key}={json.dumps(weights.settings[key])}" for key in READ if key in weights.settings]
        experiment = load_experiment(ROOT / str(entry.cfg), [*entry.settings, *read, *overrides])
    elif weights.config is not None:
        experiment = make_experiment(read_overrides(weights.config, overrides, Experiment), str(path))
    else:
        raise _without_configuration(path, weights)
    model = experiment.build_model(pretrained=False)
    load_weights(model, path, "--checkpoint")
    return experiment, model


def _without_configuration(path: Path, weights: Weights) -> UserError:
    """What is wrong with a file that does not say which model it fits, and what to do."""
    convert = "with python -m tools.convert_weights"
    if weights.is_foreign:
        return UserError(path, "has the weights of another program", f"convert them {convert}")
    if not weights.converted:
        return UserError(path, "has no checksum, so it is cut short, or no checkpoint of train.py", "use another file")
    if not any(name.startswith("backbone.") for name in weights.state):
        advice = f"name it as model.backbone.weights={path} in training"
        return UserError(path, f"has the weights of a backbone ({weights.kind}), which predicts nothing", advice)
    what = f"has weights ({weights.kind}) without the names of their classes"
    return UserError(path, what, f"convert them again {convert} --cfg FILE, the configuration with these classes")


def _load_onnx(path: Path, cfg: Path | None, overrides: list[str]) -> tuple[Experiment, OnnxModel]:
    """The experiment of an exported file (or of `cfg`), and the file as a model."""
    fixed = [argument for argument in overrides if argument.startswith("model.")]
    if fixed:
        what = "cannot change the model of an exported file"
        raise UserError(f"argument {fixed[0]}", what, "remove it, or export the checkpoint with it")
    model = OnnxModel(path)
    if cfg is None:
        config = parse_file(model.metadata.config, str(path))
        if not isinstance(config, dict):
            raise UserError(path, "holds no configuration", "export the model again")
        experiment = make_experiment(read_overrides(config, overrides, Experiment), str(path))
    else:
        experiment = load_experiment(cfg, overrides)
    info = experiment.data.info
    if (info.task, info.classes) != (model.metadata.task, model.metadata.classes):
        what = f"is exported for the task {model.metadata.task} and {len(model.metadata.classes)} classes"
        given = f"and the data are {info.name} with the task {info.task} and {len(info.classes)} classes"
        raise UserError(path, f"{what}, {given}", "use a configuration with the same classes")
    return experiment, model
