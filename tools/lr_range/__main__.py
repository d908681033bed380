"""Try learning rates: `python -m tools.lr_range --cfg FILE [--steps N] [--out DIR] [KEY=VALUE ...]`.

The learning-rate range test of Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3:
train a few hundred steps from the start, each with a somewhat larger rate, and look at the loss. Here the rate grows by
a constant factor, and the loss is smoothed, as in fastai (Howard & Gugger, Information 2020). Suggested is a tenth of
the rate at which the loss was lowest, fastai's rule. Nothing of the run is written but DIR/lr_range.png and .json.
"""

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.lr_range", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True, help="the configuration of the training")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="rates to try (default: 200)")
    parser.add_argument("--low", type=float, default=1e-6, metavar="RATE", help="the first one (default: 1e-6)")
    parser.add_argument("--high", type=float, default=1.0, metavar="RATE", help="the last one (default: 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the run's folder with _lr_range at its end")
    arguments = parse_with_overrides(parser)
    if not 10 <= arguments.steps <= 100_000:
        raise UserError(f"--steps {arguments.steps}", "is out of range", "give 10 to 100000")
    if not 0 < arguments.low < arguments.high < math.inf:
        what = "is no range of positive rates"
        raise UserError(f"--low {arguments.low:g} --high {arguments.high:g}", what, "give a smaller and a larger one")
    return arguments


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from tqdm import tqdm

from datasets.loading import next_batches
from experiment import load_experiment
from runtime.distributed import start_processes
from runtime.schedule import set_learning_rate
from storage import write_text
from tools.lr_range.curve import draw, rates_between, smooth, suggest_rate
from train import Run, train_step
from workflow.results import check_writable

TOO_HIGH = 4.0  # times the lowest smoothed loss: the test stops


def try_rates(run: Run, rates: list[float]) -> list[float]:
    """Train one step with each `optimizer.lr`. Return the losses, fewer if the loss explodes or is no longer finite."""
    experiment = run.experiment
    losses: list[float] = []
    for step, rate in enumerate(tqdm(rates, unit="step", disable=None)):
        micro_batches, error = next_batches(run.batches, run.layout.accumulation)
        if error is not None:
            raise error
        set_learning_rate(run.optimizer, rate / experiment.optimizer.lr)
        run.processes.seed_step(experiment.seed, step)
        terms, failed = train_step(run, micro_batches)
        loss = sum(term.item() for term in terms.values())
        if failed or not math.isfinite(loss):
            break
        losses.append(loss)
        smoothed = smooth(losses)
        if smoothed[-1] > TOO_HIGH * min(smoothed):
            break
    return losses


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    experiment = load_experiment(arguments.cfg, arguments.overrides).in_steps()
    # A name of its own: if the run has begun, the range is tried from its start all the same.
    experiment = experiment.model_copy(update={"run_name": f"{experiment.run_name}_lr_range"})
    experiment.fetch_weights()
    out = arguments.out or experiment.run_folder
    check_writable(out / "lr_range.png")
    processes = start_processes(experiment.system.device, experiment.system.backend)
    rates = rates_between(arguments.low, arguments.high, arguments.steps)
    with experiment.float32():
        losses = try_rates(Run(experiment, processes, resume=False), rates)
    if not losses:
        raise UserError(f"--low {arguments.low:g}", "the loss is not finite at the first step", "correct the settings")
    rates, smoothed = rates[: len(losses)], smooth(losses)
    suggested = suggest_rate(rates, smoothed)
    record: dict[str, Any] = {"cfg": str(arguments.cfg), "config": experiment.dump(), "suggested": suggested}
    record |= {"rates": rates, "losses": losses, "smoothed": smoothed}
    draw(record, out / "lr_range.png")
    write_text(out / "lr_range.json", json.dumps(record, indent=1) + "\n")
    lowest = smoothed.index(min(smoothed))
    now = experiment.optimizer.lr
    print(f"tried       {len(losses)} rates from {rates[0]:g} to {rates[-1]:g}; the settings have {now:g}")
    print(f"lowest      loss {smoothed[lowest]:.4g} (smoothed) at {rates[lowest]:.2g}; at the start {smoothed[0]:.4g}")
    if suggested is None:
        print(
            "suggested   none: the loss did not fall, or still falls at the end; try other --low, --high, more --steps"
        )
    else:
        print(f"suggested   optimizer.lr={suggested:g}")
    print(f"written to  {out}/lr_range.png, {out}/lr_range.json")


if __name__ == "__main__":
    run_command(main)
