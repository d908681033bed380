"""The plan of the mini-paper: which runs are left, and how long they will take."""

import json
import statistics
from pathlib import Path

from tools.compare.runs import Comparison, Run


def print_plan(comparisons: dict[str, Comparison], finished: set[str], jobs: int) -> None:
    """Print the runs of each experiment, how many are finished, and how long the others will take.

    A run that experiments share counts once. finished: experiments with a result; their run folders may be deleted.
    """
    seen: set[Path] = set()
    print(f"{'experiment':<12}{'runs':>6}{'finished':>10}{'minutes left':>14}")
    for name, comparison in comparisons.items():
        runs = [run for run in comparison.runs if run.folder not in seen]
        seen.update(run.folder for run in runs)
        left = 0 if name in finished else sum(not run.finished for run in runs)
        durations = [
            seconds for other in comparisons.values() if other.out == comparison.out for seconds in run_seconds(other)
        ]
        minutes = f"{left * statistics.median(durations) / jobs / 60:.0f}" if durations else "0" if not left else "?"
        print(f"{name:<12}{len(runs):>6}{len(runs) - left:>10}{minutes:>14}")
    print(f"minutes: {jobs} runs at a time, each as long as the finished ones of its configuration; ?: there are none")


def run_seconds(comparison: Comparison) -> list[float]:
    """The seconds that each finished run took for its steps and evaluations; start-up is not included."""
    return [_seconds(run) for run in comparison.runs if run.finished]


def _seconds(run: Run) -> float:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return run.experiment.steps * (run.seconds_per_step() or 0) + sum(
        line["seconds"] for line in lines if line["section"] == "val"
    )
