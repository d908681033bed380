"""Find and load a trained model."""

from pathlib import Path
from typing import Literal

from config import read_overrides
from config.plain_yaml import parse_file
from errors import UserError
from experiment import Experiment, load_experiment, make_experiment
from models.base import DenseModel
from models.weights import load_state, load_weights
from published.cache import obtain
from published.index import ROOT, Entry, entries, find
from runtime.checkpoint import is_checkpoint, load_checkpoint
from workflow.onnx_model import OnnxModel


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
    model (published/index.yaml), which is fetched, a file of `tools.export_onnx --full`, or, with `cfg`, a file written
    by tools.convert_weights; the step of all three is 0. Raises UserError if something is wrong with the files.
    """
    if path.suffix == ".onnx":
        return *_load_onnx(path, cfg, overrides), 0
    if cfg is None and not path.exists() and str(path) in entries():
        return *_load_published(find(str(path)), overrides), 0
    if cfg is not None and path.is_file() and not is_checkpoint(path):
        experiment = load_experiment(cfg, overrides)
        model = experiment.build_model(pretrained=False)
        load_weights(model, path, "--checkpoint")
        return experiment, model, 0
    state = load_checkpoint(path)
    if cfg is None:
        experiment = make_experiment(read_overrides(state["config"], overrides, Experiment), str(path))
    else:
        experiment = load_experiment(cfg, overrides)
    model = experiment.build_model(pretrained=False)
    load_state(model, state["ema"] or state["model"], path)
    return experiment, model, state["step"]


def _load_published(entry: Entry, overrides: list[str]) -> tuple[Experiment, DenseModel]:
    if entry.cfg is None:
        advice = f"name it as model.backbone.weights={entry.name} in training"
        raise UserError(entry.name, "are the weights of a backbone, which predicts nothing", advice)
    experiment = load_experiment(ROOT / entry.cfg, [*entry.settings, *overrides])
    model = experiment.build_model(pretrained=False)
    load_weights(model, obtain(entry.name), entry.name)
    return experiment, model


def _load_onnx(path: Path, cfg: Path | None, overrides: list[str]) -> tuple[Experiment, OnnxModel]:
    """The experiment of an exported file (or of `cfg`), and the file as a model."""
    fixed = [argument for argument in overrides if argument.startswith("model.")]
    if fixed:
        what = "cannot change the model of an exported file"
        raise UserError(f"argument {fixed[0]}", what, "remove it, or export the checkpoint with it")
    model = OnnxModel(path)
    if cfg is None:
        config = parse_file(model.metadata.config, str(path))
        experiment = make_experiment(read_overrides(config, overrides, Experiment), str(path))
    else:
        experiment = load_experiment(cfg, overrides)
    info = experiment.data.info
    if (info.task, info.classes) != (model.metadata.task, model.metadata.classes):
        what = f"is exported for the task {model.metadata.task} and {len(model.metadata.classes)} classes"
        given = f"and the data are {info.name} with the task {info.task} and {len(info.classes)} classes"
        raise UserError(path, f"{what}, {given}", "use a configuration with the same classes")
    return experiment, model
