"""Try learning rates: `python -m tools.lr_range --cfg FILE [--steps N] [--out DIR] [KEY=VALUE ...]`.

The learning-rate range test of Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3:
train a few hundred steps from the start, each with a somewhat larger rate, and look at the loss. Here the rate grows by
a constant factor, and the loss is smoothed, as in fastai (Howard & Gugger, Information 2020). Suggested is a tenth of
the rate at which the loss was lowest, fastai's rule. Nothing of the run is written but DIR/lr_range.png and .json.
"""

import json
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.loading import next_batches
from errors import ArgumentParser, UserError, run_command
from experiment import load_experiment
from runtime.distributed import start_processes
from runtime.schedule import set_learning_rate
from storage import write_text
from train import Run, train_step
from workflow.results import check_writable

SMOOTHING = 0.9  # weight of the past in the moving average of the loss
TOO_HIGH = 4.0  # times the lowest smoothed loss: the test stops
BELOW_LOWEST = 0.1  # of the rate of the lowest loss: the suggestion


def rates_between(low: float, high: float, steps: int) -> list[float]:
    """`steps` rates from low to high, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def smooth(losses: list[float]) -> list[float]:
    """The exponential moving average, corrected for its start."""
    smoothed, average = [], 0.0
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def suggest_rate(rates: list[float], smoothed: list[float]) -> float | None:
    """A tenth of the rate with the lowest smoothed loss, to two digits; None if the loss did not fall or still falls.

    Of a loss that still falls at the largest rate, nobody has seen what is too much.
    """
    lowest = smoothed.index(min(smoothed))
    if lowest == 0 or lowest == len(smoothed) - 1:
        return None
    return float(f"{BELOW_LOWEST * rates[lowest]:.1e}")


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


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the losses over the rates as a PNG."""
    from matplotlib.figure import Figure  # imported here because it is slow

    figure = Figure(figsize=(6.5, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(record["rates"], record["losses"], color="0.8", linewidth=0.8, label="loss")
    axes.plot(record["rates"], record["smoothed"], color="tab:blue", label="smoothed")
    if record["suggested"]:
        axes.axvline(record["suggested"], color="black", linestyle="--", label=f"suggested: {record['suggested']:g}")
    top = max(record["smoothed"][0], min(record["smoothed"])) * 1.3
    axes.set(xscale="log", xlabel="optimizer.lr", ylabel="loss", ylim=(min(record["losses"]) * 0.9, top))
    axes.legend()
    axes.set_title(f"{record['cfg']}: learning-rate range test", fontsize=9)
    figure.savefig(path, format="png", metadata={"Software": None})


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="tools.lr_range", description=__doc__)
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="rates to try (default: 200)")
    parser.add_argument("--low", type=float, default=1e-6, metavar="RATE", help="the first one (default: 1e-6)")
    parser.add_argument("--high", type=float, default=1.0, metavar="RATE", help="the last one (default: 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the run's folder with _lr_range at its end")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if not 10 <= arguments.steps <= 100_000:
        raise UserError(f"--steps {arguments.steps}", "is out of range", "give 10 to 100000")
    if not 0 < arguments.low < arguments.high < math.inf:
        what = "is no range of positive rates"
        raise UserError(f"--low {arguments.low:g} --high {arguments.high:g}", what, "give a smaller and a larger one")
    experiment = load_experiment(arguments.cfg, arguments.overrides)
    experiment.fetch_weights()
    out = arguments.out or experiment.run_folder.with_name(f"{experiment.run_name}_lr_range")
    check_writable(out / "lr_range.png")
    processes = start_processes(experiment.system.device, experiment.system.backend)
    rates = rates_between(arguments.low, arguments.high, arguments.steps)
    with experiment.float32():
        losses = try_rates(Run(experiment, processes, resume=False), rates)
    if not losses:
        raise UserError(f"--low {arguments.low:g}", "the loss is not finite at the first step", "correct the settings")
    rates, smoothed = rates[: len(losses)], smooth(losses)
    suggested = suggest_rate(rates, smoothed)
    record = {"cfg": str(arguments.cfg), "config": experiment.dump(), "suggested": suggested}
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
