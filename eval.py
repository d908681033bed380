"""Score a checkpoint.

`python eval.py --checkpoint PATH [--which last] [--cfg FILE] [--json FILE] [--predictions DIR] [KEY=VALUE ...]`

PATH is a checkpoint, a run folder, a file of converted weights, the name of a published model or a file of
`tools.export_onnx --full` (also as --onnx PATH). Of a run folder the checkpoint with the best evaluation is used, or
the last one. Without --cfg its own configuration is used.
Under torchrun each process predicts a share of the images. The metrics are those of one process, up to rounding.
"""

import time
from collections.abc import Iterable
from typing import Any

from errors import read_early, run_command
from workflow.arguments import evaluation_arguments

if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(evaluation_arguments, __doc__)

import torch

from datasets.base import DenseDataset, PredictionFiles
from datasets.loading import evaluation_loader
from experiment import Experiment
from inference import Inference
from metrics.base import Metric
from models.base import DenseModel
from runtime.distributed import Processes, start_processes
from runtime.shutdown import exit_together
from structures import Batch
from workflow.results import check_outside_data, check_writable, describe, result_record, write_result
from workflow.trained import find_checkpoint, keep_memory, load_predicting


@torch.inference_mode()
def evaluate(
    inference: Inference,
    batches: Iterable[Batch],
    metrics: list[Metric],
    processes: Processes,
    files: PredictionFiles | None = None,
) -> None:
    """Predict every batch and update the metrics with it; at the end gather the metrics over all processes.

    files: where predictions are also written, if given. The model is set back to its mode (train or eval).
    """
    was_training = inference.model.training
    inference.model.eval()
    for batch in batches:
        predictions = [prediction.to("cpu") for prediction in inference.predict(batch.to(processes.device))]
        for metric in metrics:
            metric.update(predictions, batch.targets)
        if files is not None:
            for prediction, target in zip(predictions, batch.targets, strict=True):
                files.write(prediction, target)
    inference.model.train(was_training)
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
    """Evaluate on a whole dataset. Return the result record; the README lists its fields."""
    metrics = experiment.build_metrics()
    inference = experiment.inference(model)
    loader = evaluation_loader(
        dataset,
        inference.transforms,
        batch_size=experiment.evaluation.batch_size,
        size_divisor=inference.size_divisor,
        rank=processes.rank,
        world_size=processes.count,
        workers=experiment.system.workers,
        pin_memory=processes.device.type == "cuda",
    )
    start = time.perf_counter()
    with experiment.arithmetic(processes.device):
        evaluate(inference, loader, metrics, processes, files)
    return result_record(experiment, metrics, dataset, processes, start)


@exit_together()
def main() -> None:
    """Run the command."""
    arguments = evaluation_arguments(__doc__)

    if arguments.json:
        check_writable(arguments.json)
    path = find_checkpoint(arguments.checkpoint, arguments.which)
    selected = path.stem if arguments.checkpoint.is_dir() else None
    experiment, model, step = load_predicting(path, arguments.cfg, arguments.overrides)
    if arguments.predictions:
        check_outside_data(arguments.predictions, "--predictions", experiment)
    keep_memory(experiment)
    dataset = experiment.data.build("val")
    files = experiment.data.prediction_files(arguments.predictions) if arguments.predictions else None
    processes = start_processes(experiment.system.device, experiment.system.backend)
    result = score(model.to(processes.device), dataset, experiment, processes, files)
    result |= {"checkpoint": str(path), "step": step, "selected": selected}
    if processes.is_main:
        which = f", the {selected} one of the run" if selected else ""
        print(f"{path}{which}, step {step}, {len(dataset)} images of {result['dataset']} in {result['seconds']} s")
        print(describe(result))
        if arguments.json:
            write_result(arguments.json, result)


if __name__ == "__main__":
    run_command(main)
