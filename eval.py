"""Score a checkpoint.

`python eval.py --checkpoint PATH [--cfg FILE] [--json FILE] [--predictions DIR] [KEY=VALUE ...]`

PATH is a checkpoint, a run folder (its best checkpoint) or, with --cfg, converted weights. Without --cfg the
checkpoint's own configuration serves.
Under torchrun the images are shared out among the processes; the numbers are those of one process.
"""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import read_overrides
from datasets.base import DenseDataset, PredictionFiles
from datasets.loading import evaluation_loader, single_batch
from errors import ArgumentParser, UserError, run_command
from experiment import Experiment, load_experiment, make_experiment
from metrics.base import Metric
from models.base import DenseModel
from models.weights import load_state, load_weights
from pictures import draw
from runtime.checkpoint import is_checkpoint, load_checkpoint
from runtime.distributed import Processes, start_processes
from runtime.ending import ending_together
from runtime.log import environment
from runtime.memory import EVALUATION, keep_freed_memory
from storage import write_text
from structures import Batch


@torch.inference_mode()
def evaluate(
    model: DenseModel,
    batches: Iterable[Batch],
    metrics: list[Metric],
    processes: Processes,
    files: PredictionFiles | None = None,
) -> None:
    """Predict every batch and let the metrics compare it with its targets; then merge them over all processes.

    files: where to store the predictions too. The model is left in the mode that it was in.
    """
    was_training = model.training
    model.eval()
    for batch in batches:
        predictions = [prediction.to("cpu") for prediction in model.predict(batch.to(processes.device))]
        for metric in metrics:
            metric.update(predictions, batch.targets)
        if files is not None:
            for prediction, target in zip(predictions, batch.targets, strict=True):
                files.write(prediction, target)
    model.train(was_training)
    processes.wait()
    if files is not None:
        files.finish()
    for metric in metrics:
        metric.gather()


def score(
    model: DenseModel,
    dataset: DenseDataset,
    experiment: Experiment,
    processes: Processes,
    files: PredictionFiles | None = None,
) -> dict[str, Any]:
    """Evaluate on a whole dataset; the result record, whose fields the README lists."""
    metrics = experiment.build_metrics()
    loader = evaluation_loader(
        dataset,
        experiment.data.test_transforms,
        batch_size=experiment.evaluation.batch_size,
        size_divisor=model.size_divisor,
        process=processes.rank,
        processes=processes.count,
        workers=experiment.system.workers,
        pin_memory=processes.device.type == "cuda",
    )
    start = time.perf_counter()
    with experiment.autocast(processes.device):
        evaluate(model, loader, metrics, processes, files)
    return result_record(experiment, metrics, dataset) | {
        "seconds": round(time.perf_counter() - start, 3),
        "environment": environment(processes),
    }


@torch.inference_mode()
def validation_pictures(
    model: DenseModel, dataset: DenseDataset, experiment: Experiment, processes: Processes
) -> Iterator[tuple[str, np.ndarray]]:
    """The main process's pictures of `evaluation.pictures` images spread over the dataset, each with its image id."""
    count = min(experiment.evaluation.pictures, len(dataset)) if processes.is_main else 0
    was_training = model.training
    model.eval()
    for index in range(count):
        sample = dataset.load(index * len(dataset) // count)
        batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor)
        with experiment.autocast(processes.device):
            prediction = model.predict(batch.to(processes.device))[0].to("cpu")
        yield sample.image_id, draw(sample.image, prediction, batch.targets[0], experiment.data.info)
    model.train(was_training)


def result_record(experiment: Experiment, metrics: list[Metric], dataset: DenseDataset) -> dict[str, Any]:
    """The numbers of gathered metrics and what they mean."""
    info = experiment.data.info
    return {
        "task": info.task,
        "config": experiment.dump(),
        "checkpoint": None,
        "step": None,
        "dataset": info.name,
        "split": "val",
        "num_images": len(dataset),
        "skipped": {"count": len(dataset.skipped), "items": list(dataset.skipped)},
        "protocol": {
            "test_transforms": experiment.dump()["data"]["test_transforms"],
            **dataset.protocol,
            **{name: value for metric in metrics for name, value in metric.protocol.items()},
        },
        "metrics": {name: value for metric in metrics for name, value in metric.compute().items()},
        "per_class": [record for metric in metrics for record in metric.per_class()],
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result record as JSON, whole or not at all; a number without a value (no such class or pixel) is null."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(_without_nan(result), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from None


def check_writable(path: Path) -> None:
    """Raise UserError unless a file can be written at `path`: to know before the work, not after it."""
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
    """Raise UserError, naming the option, if predictions in `folder` could overwrite annotations."""
    if folder.resolve().is_relative_to(experiment.data.root.expanduser().resolve()):
        what = f"lies in data.root ({experiment.data.root}), where predictions could overwrite annotations"
        raise UserError(f"{option} {folder}", what, "choose a folder outside")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def describe(result: dict[str, Any]) -> str:
    """The numbers of a result record, a line each."""
    return "\n".join(f"{name:>10} {value:9.4f}" for name, value in result["metrics"].items())


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the best (else the last) one of a run folder."""
    if not path.is_dir():
        return path
    for name in ("best.pt", "last.pt", "previous.pt"):
        candidate = path / "checkpoints" / name
        if candidate.exists():
            return candidate
    raise UserError(path, "holds no checkpoint", "name a .pt file or the folder of a run that has saved one")


def load_trained(path: Path, cfg: Path | None, overrides: list[str]) -> tuple[Experiment, DenseModel, int]:
    """The experiment of a checkpoint (or of `cfg`), the model with its trained weights, and its step.

    Where an average of the weights was kept, it is the average that is loaded. With `cfg`, `path` may also be a file of
    tools.convert_weights, whose step is 0.
    """
    if cfg is not None and path.is_file() and not is_checkpoint(path):
        experiment = load_experiment(cfg, overrides)
        model = experiment.build_model(pretrained=False)
        load_weights(model, path, "--checkpoint")
        return experiment, model, 0
    state = load_checkpoint(path)
    if cfg is None:
        experiment = make_experiment(read_overrides(state["config"], overrides), str(path))
    else:
        experiment = load_experiment(cfg, overrides)
    model = experiment.build_model(pretrained=False)
    load_state(model, state["ema"] or state["model"], path)
    return experiment, model, state["step"]


@ending_together()
def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="eval.py", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cfg", type=Path)
    parser.add_argument("--json", type=Path, help="write the result record to this file")
    parser.add_argument("--predictions", type=Path, help="write the predictions to this folder")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()

    if arguments.json:
        check_writable(arguments.json)
    path = find_checkpoint(arguments.checkpoint)
    experiment, model, step = load_trained(path, arguments.cfg, arguments.overrides)
    if arguments.predictions:
        check_outside_data(arguments.predictions, "--predictions", experiment)
    if experiment.system.reuse_memory:
        keep_freed_memory(EVALUATION)
    dataset = experiment.data.build("val")
    files = experiment.data.prediction_files(arguments.predictions) if arguments.predictions else None
    processes = start_processes(experiment.system.device)
    result = score(model.to(processes.device), dataset, experiment, processes, files)
    result |= {"checkpoint": str(path), "step": step}
    if processes.is_main:
        print(f"{path}, step {step}, {len(dataset)} images of {result['dataset']} in {result['seconds']} s")
        print(describe(result))
        if arguments.json:
            write_result(arguments.json, result)


if __name__ == "__main__":
    run_command(main)
