"""Training steps of the small configurations by memory layout and compilation, and how often they wait for the device.

    python -m benchmarks.gpu.training_step [--cfg configs/small/seg.yaml ..] [--steps 10] [KEY=VALUE ..]

For each configuration: milliseconds of a step (median; data loading is not counted) with and without
system.channels_last and system.compile. On CUDA also how many operations of a step made the host wait for the device,
as PyTorch's sync debug mode reports them. A setting that fails is recorded with its error. Prints JSON.
"""

import argparse
import functools
import itertools
import json
import statistics
import warnings
from typing import Any

import torch

from datasets.loading import next_batches
from experiment import load_experiment
from runtime.distributed import start_processes
from tools.benchmark.measure import machine, milliseconds, rounded
from train import Run, train_step

DEMOS = [f"configs/small/{task}.yaml" for task in ("seg", "det", "inst", "pan", "depth")]
WARM_UP = 3  # steps, in which graphs are compiled


def measure(cfg: str, steps: int, options: list[str]) -> dict[str, Any]:
    """Milliseconds of a step, and on CUDA its waits."""
    torch.compiler.reset()
    processes = start_processes("auto")
    experiment = load_experiment(cfg, [*options, f"system.device={processes.device.type}"]).in_steps()
    with experiment.float32():
        run = Run(experiment, processes, resume=False)
        times, waits = [], 0
        for _ in range(WARM_UP + steps):
            batches, error = next_batches(run.batches, run.layout.accumulation)
            if error is not None:
                raise error
            times.append(milliseconds(functools.partial(train_step, run, batches), processes.device.type))
        if processes.device.type == "cuda":
            waits = count_waits(run)
    return {"ms": rounded(statistics.median(times[WARM_UP:])), "waits": waits}


def count_waits(run: Run) -> int:
    """How many operations of one step make the host wait for the CUDA device."""
    batches, _ = next_batches(run.batches, run.layout.accumulation)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train_step(run, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in found)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="+", default=DEMOS)
    parser.add_argument("--steps", type=int, default=10)
    arguments, options = parser.parse_known_args()
    results: dict[str, dict[str, Any]] = {}
    for cfg in arguments.cfg:
        results[cfg] = {}
        for last, compiled in itertools.product(("false", "true"), repeat=2):
            setting = [f"system.channels_last={last}", f"system.compile={compiled}"]
            try:
                found = measure(cfg, arguments.steps, [*options, *setting])
            except Exception as error:  # the other settings are still worth measuring
                found = {"error": f"{type(error).__name__}: {error}"[:300]}
            results[cfg][" ".join(setting)] = found
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(json.dumps({"machine": machine(device), "options": options, "steps": results}, indent=2))


if __name__ == "__main__":
    main()
