"""The result record: the metrics of a run with their circumstances, and its JSON file."""

import json
import shlex
import time
from pathlib import Path
from typing import Any

from datasets.base import DenseDataset
from errors import UserError
from experiment import Experiment
from metrics.base import Metric
from runtime.distributed import Processes
from runtime.state import TrainingState
from storage import write_text
from workflow.environment import environment


def result_record(
    experiment: Experiment, metrics: list[Metric], dataset: DenseDataset, processes: Processes, start: float
) -> dict[str, Any]:
    """The result record of metrics that are gathered over all processes; docs/commands.md lists its fields.

    The caller fills in checkpoint, step and selected ("best" or "last", of the evaluations of a run).
    start: time.perf_counter() before the evaluation.
    """
    info = experiment.data.info
    return {
        "task": info.task,
        "config": experiment.dump(),
        "checkpoint": None,
        "step": None,
        "selected": None,
        "dataset": info.name,
        "split": "val",
        "num_images": len(dataset),
        "skipped": {"count": len(dataset.skipped), "items": list(dataset.skipped)},
        "protocol": {
            "test_transforms": experiment.dump()["data"]["test_transforms"],
            "inference": experiment.dump()["evaluation"]["inference"],
            **dataset.protocol,
            **{name: value for metric in metrics for name, value in metric.protocol.items()},
        },
        "metrics": {name: value for metric in metrics for name, value in metric.compute().items()},
        "per_class": [record for metric in metrics for record in metric.per_class()],
        "seconds": round(time.perf_counter() - start, 3),
        "environment": environment(processes),
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result record as JSON, atomically. NaN (a metric without any class or pixel to count) becomes null."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(without_nan(result), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from None


def write_run_results(folder: Path, result: dict[str, Any], step: int, is_best: bool) -> None:
    """Write the record of an evaluation into the run folder: results_last.json and, if it is the best, results.json."""
    for selected, name in [("last", "results_last.json"), ("best", "results.json")][: 1 + is_best]:
        path = folder / "checkpoints" / f"{selected}.pt"
        write_result(folder / name, result | {"checkpoint": str(path), "step": step, "selected": selected})


def headline(experiment: Experiment) -> list[str]:
    """Names of the numbers that a line about an evaluation shows."""
    return [name for metric in experiment.build_metrics() for name in metric.headline]


def describe_run(folder: Path, state: TrainingState) -> str:
    """Where the results of a finished run are, and whether it ended early."""
    best = state.best
    return (
        f"done: {folder}\n"
        f"  best evaluation: {best['metric']} {best['value']:.4g} at step {best['step']}, results.json and best.pt\n"
        f"  last evaluation: at step {state.step}, results_last.json and last.pt\n"
        f"  next: python -m tools.errors --checkpoint {shlex.quote(str(folder))}; "
        f"python -m tools.predict --checkpoint {shlex.quote(str(folder))} PHOTO"
        + ("\n  stopped early: evaluation.patience is used up" if state.out_of_patience else "")
    )


def check_writable(path: Path) -> None:
    """Raise UserError unless a file can be written at `path`. Call it before long work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a"):
            pass
        if is_new:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        path, f"cannot be written ({error})", "name a file in a folder that you may write, with space left"
    )


def check_outside_data(folder: Path, option: str, experiment: Experiment) -> None:
    """Raise UserError, naming the option, if `folder` lies in data.root: predictions could overwrite annotations."""
    if folder.resolve().is_relative_to(experiment.data.root.expanduser().resolve()):
        what = f"lies in data.root ({experiment.data.root}), where predictions could overwrite annotations"
        raise UserError(f"{option} {folder}", what, "choose a folder outside")


def without_nan(value: Any) -> Any:
    """A record with None for every NaN, since JSON has none."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def describe(result: dict[str, Any]) -> str:
    """The metrics of a result record as text, one per line."""
    return "\n".join(f"{name:>10} {value:9.4f}" for name, value in result["metrics"].items())
