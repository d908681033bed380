"""Summary of a demo run: its scores, a simple baseline, its files: `python -m tools.demo_summary RUN_FOLDER`."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.demo_summary", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="the folder of a finished run")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import torch

from experiment import Experiment, make_experiment
from structures import Prediction


def most_frequent_class(per_class: list[dict[str, Any]]) -> tuple[str, float]:
    """The class with the most labelled pixels, and the mIoU in percent of predicting it everywhere."""
    present = [record for record in per_class if record["pixels"]]
    most_frequent = max(present, key=lambda record: record["pixels"])
    share = most_frequent["pixels"] / sum(record["pixels"] for record in present)
    return most_frequent["class"], 100 * share / len(present)


def mean_depth(experiment: Experiment) -> tuple[float, dict[str, float]]:
    """The mean of all training depths in metres, and the validation metrics of predicting it everywhere."""
    training, validation = experiment.data.build("train", True), experiment.data.build("val", True)
    depths = (training.target(index).depth for index in range(len(training)))
    measured = torch.cat([depth[depth > 0] for depth in depths if depth is not None])
    mean = measured.double().mean().item()
    (metric,) = experiment.build_metrics()
    for target in map(validation.target, range(len(validation))):
        metric.update([Prediction(depth=torch.full(target.size, mean))], [target])
    return mean, metric.compute()


def _scores(result: dict[str, Any]) -> str:
    digits = 3 if result["task"] == "depth" else 1
    numbers = (f"{name} {'-' if value is None else f'{value:.{digits}f}'}" for name, value in result["metrics"].items())
    return f"{'  '.join(numbers)} at step {result['step']}"


def main() -> None:
    """Run the command."""
    run: Path = read_arguments().run
    results = run / "results.json"
    if not results.is_file():
        raise UserError(results, "no such file", "name the folder of a run that has been evaluated")
    result = json.loads(results.read_text())
    print("\nbest evaluation:", _scores(result))
    last = run / "results_last.json"
    if last.is_file():
        print("last evaluation:", _scores(json.loads(last.read_text())))
    if result["task"] == "semantic":
        name, baseline = most_frequent_class(result["per_class"])
        print(f'for comparison, "{name}" everywhere would give mIoU {baseline:.1f}')
    if result["task"] == "depth":
        mean, errors = mean_depth(make_experiment(result["config"], str(results)))
        what = f"delta1 {errors['delta1']:.2f}, rms {errors['rms']:.2f}"
        print(f"for comparison, the training mean of {mean:.2f} m everywhere would give {what}")
    pictures = sorted(run.glob("pictures/step_*"))
    print(f"results     {results} (best), {last} (last)")
    if pictures:
        print(f"pictures    {pictures[-1]}")
    print(f"curves      .venv/bin/tensorboard --logdir {run}")


if __name__ == "__main__":
    run_command(main)
