"""Score prediction files against a validation set, without a model.

`python -m tools.score --cfg FILE --predictions PATH [--json FILE] [KEY=VALUE ...]`

PATH is what `eval.py --predictions` or `tools.predict` wrote, or any files of the same form.
"""

import os
import time
from pathlib import Path

import torch
from tqdm import tqdm

from errors import ArgumentParser, UserError, run_command
from experiment import load_experiment
from runtime.distributed import Processes
from workflow.environment import environment
from workflow.results import check_writable, describe, result_record, write_result


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.score", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write the result record to this file")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if not os.path.exists(arguments.predictions):  # unlike that of Path, no error where a folder may not be entered
        raise UserError(arguments.predictions, "no such file or folder", "name what eval.py --predictions wrote")
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
        raise UserError(arguments.predictions, what, "score them against the data set that they were made for")
    result = result_record(experiment, metrics, dataset) | {
        "seconds": round(time.perf_counter() - start, 3),
        "environment": environment(Processes(0, 1, torch.device("cpu"))),
    }
    print(f"{arguments.predictions}: {len(dataset)} images of {result['dataset']}")
    print(describe(result))
    if arguments.json:
        write_result(arguments.json, result)


if __name__ == "__main__":
    run_command(main)
