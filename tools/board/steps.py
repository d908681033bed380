"""Seconds of a training step of every row, measured on this machine before a board is run."""

import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

from datasets.loading import next_batches
from errors import UserError
from experiment import Experiment
from runtime.distributed import start_processes
from runtime.schedule import set_learning_rate
from tools.board.definition import Column
from train import Run, train_step
from workflow.environment import cpu_name
from workflow.results import write_result

STEPS, WARM_UP = 5, 1


def measure_steps(column: Column, path: Path, device: str) -> None:
    """Measure a step of every upsampler of a host, with the reading of its images, and add them to a file.

    The file has "hosts": by name "cfg", "device" (in words), "date" and "seconds" by upsampler: medians of a few steps.
    On a CPU these are seconds of the processor, since other programs may use it, too, and a run has one thread.
    """
    record = {"cfg": str(column.host.cfg), "device": f"{device}, {cpu_name()}", "date": date.today().isoformat()}
    seconds = {}
    for name, (run, *_) in column.comparison.paired.items():
        run.experiment.fetch_weights()
        seconds[name] = _measure(run.experiment)
        print(f"{column.name}, {name}: {seconds[name]:.3g} seconds per step", flush=True)
    hosts = read_steps(path) | {column.name: {**record, "seconds": seconds}}
    write_result(path, {"hosts": hosts})


def read_steps(path: Path) -> dict[str, dict[str, Any]]:
    """The hosts of a file of measured steps; none if there is no file. Raises UserError if it is damaged."""
    if not path.exists():
        return {}
    try:
        hosts: dict[str, dict[str, Any]] = json.loads(path.read_text())["hosts"]
        if all({"cfg", "seconds"} <= host.keys() for host in hosts.values()):
            return hosts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(path, "is damaged", "remove it and run --measure again")


def _measure(experiment: Experiment) -> float:
    processes = start_processes(experiment.system.device, experiment.system.backend)
    clock = time.perf_counter if processes.device.type == "cuda" else time.process_time
    found = []
    with experiment.float32():
        run = Run(experiment, processes, resume=False)
        for step in range(WARM_UP + STEPS):
            start = clock()
            micro_batches, error = next_batches(run.batches, run.layout.accumulation)
            if error is not None:
                raise error
            set_learning_rate(run.optimizer, experiment.schedule.factor(step, experiment.steps))
            processes.seed_step(experiment.seed, step)
            losses, _ = train_step(run, micro_batches)
            sum(loss.item() for loss in losses.values())  # waits for a GPU
            found.append(clock() - start)
    return statistics.median(found[WARM_UP:])
