"""Score prediction files against a validation set, without a model.

`python -m tools.score --cfg FILE --predictions PATH [--json FILE] [KEY=VALUE ...]`

PATH: prediction files written by `eval.py --predictions` or `tools.predict`, or any files of the same format.
"""

import os
import time
from argparse import Namespace
from pathlib import Path

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.score", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True, help="the configuration with the data to score on")
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        help="the file or folder of predictions, as eval.py --predictions writes it",
    )
    parser.add_argument("--json", type=Path, help="write the result record to this file")
    return parse_with_overrides(parser)


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import torch
from tqdm import tqdm

from experiment import load_experiment
from runtime.distributed import Processes
from workflow.results import check_writable, describe, result_record, write_result


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    if not os.path.exists(arguments.predictions):  # Path.exists would raise in a folder that may not be entered
        raise UserError(arguments.predictions, "no such file or folder", "name the output of eval.py --predictions")
    if arguments.json:
        check_writable(arguments.json)
    experiment = load_experiment(arguments.cfg, arguments.overrides)
    dataset = experiment.data.build("val", annotations_only=True)
    files = experiment.data.prediction_files(arguments.predictions)
    metrics = experiment.build_metrics()
    start = time.perf_counter()
    for index in tqdm(range(len(dataset)), unit="image", disable=None):
        target = dataset.target(index)
        prediction = files.read(target)
        for metric in metrics:
            metric.update([prediction], [target])
    if unread := files.unread():
        names = ", ".join(unread[:3]) + (", .." if len(unread) > 3 else "")
        what = f"has predictions for {len(unread)} image(s) that the validation set lacks ({names})"
        raise UserError(arguments.predictions, what, "score them against the dataset that they were made for")
    processes = Processes(0, 1, torch.device("cpu"))
    result = result_record(experiment, metrics, dataset, processes, start)
    print(f"{arguments.predictions}: {len(dataset)} images of {result['dataset']}")
    for fact, value in dataset.protocol.items():
        print(f"{fact}: {value}")
    print(describe(result))
    if arguments.json:
        write_result(arguments.json, result)


if __name__ == "__main__":
    run_command(main)
