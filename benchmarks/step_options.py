"""Training steps with and without `system.channels_last` and `system.compile`, on CPU.

    python -m benchmarks.step_options [--demos seg,det,..] [--rounds 9] [--threads 1] [--json FILE]

Whole steps of train.py on one batch of each demo, both settings in turns in one process. Checks that the losses of the
first step are equal within rounding. Only SegFormer is compiled: it takes the demos of fixed shape, and a minute.
Needs data/scenes (`make scenes`).
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import Row, compare, publish
from benchmarks.segformer_step import positive
from errors import ArgumentParser, run_command
from experiment import load_experiment
from runtime.distributed import start_processes
from runtime.memory import keep_freed_memory
from train import Run, train_step

OPTIONS = {
    "seg": ("channels_last", "compile"),
    "maskformer": ("channels_last",),
    "depth": ("channels_last",),
    "det": ("channels_last",),
    "inst": ("channels_last",),
    "pan": ("channels_last",),
}


def step_with(demo: str, option: str, value: bool, folder: str) -> Any:
    """A function that does one training step on a fixed batch, and returns the losses."""
    words = ["system.device=cpu", f"system.{option}={value}", f"output_dir={folder}"]
    run = Run(load_experiment(f"configs/small/{demo}.yaml", words), start_processes("cpu"), resume=False)
    batches = [next(run.batches) for _ in range(run.layout.accumulation)]

    def step() -> dict[str, float]:
        torch.manual_seed(0)
        return {name: float(loss) for name, loss in train_step(run, batches)[0].items()}

    return step


def measure(demo: str, option: str, rounds: int) -> Row:
    """Compare steps with the option on and off. Raises ValueError if the losses of the first step differ."""
    with tempfile.TemporaryDirectory() as folder:
        on, off = (step_with(demo, option, value, folder) for value in (True, False))
        for (name, loss), other in zip(on().items(), off().values(), strict=True):
            if abs(loss - other) > 1e-3 * abs(other):
                raise ValueError(f"{demo}, {option}: {name} is {loss}, without the option {other}")
        work = f"{demo}: step with system.{option}=true"
        return compare(work, "a step without it", on, off, rounds=rounds)


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.step_options", description=__doc__)
    parser.add_argument("--demos", default=",".join(OPTIONS), help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=9, help="default: %(default)s")
    parser.add_argument("--threads", type=positive, default=1, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    pairs = [(demo, option) for demo in arguments.demos.split(",") for option in OPTIONS[demo]]
    publish([measure(*pair, arguments.rounds) for pair in pairs], arguments.json, rounds=arguments.rounds)


if __name__ == "__main__":
    run_command(main)
