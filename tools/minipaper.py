"""The paper's comparisons at the scale of a CPU, and RESULTS.md, which is generated from what they gave.

`python -m tools.minipaper [--only NAME] [--check] [--report] [--jobs J]`

Each experiment of tools/paper/experiments.yaml is one call of tools.compare; the same command again goes on where it
stopped. Finished ones lie in results/ and are left alone as long as their definition is the same.
"""

import json
import os
import shutil
import signal
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from config import Schema, read_config, validate
from errors import ArgumentParser, Interrupted, UserError, run_command, suggest
from runtime.run_folder import differences
from runtime.signals import StopSignals
from tools.compare import make_comparison
from tools.compare_runs import POLL_SECONDS, Comparison, Run
from tools.minipaper_report import MADE_OF, Section, compare_sections, draw, page, read_paper

EXPERIMENTS = Path(__file__).parent / "paper/experiments.yaml"


class MiniExperiment(Schema):
    """One comparison. title, note: of its section. cfg: the configuration. variants: a file as tools.compare takes it.

    seeds: so many for each variant, from first_seed. metrics: what is tested, the first by tools.compare itself.
    paper: the table of tools/paper/results.json that stands beside it.
    """

    title: str
    note: str = ""
    cfg: Path
    variants: Path
    seeds: PositiveInt
    first_seed: NonNegativeInt = 0
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    paper: str


class MiniPaper(Schema):
    """All experiments, in their order. out: the runs of a configuration go to out/NAME_OF_CFG, so that experiments
    share them. overrides: KEY=VALUE for all runs.
    """

    out: Path
    overrides: tuple[str, ...] = ()
    experiments: Annotated[dict[str, MiniExperiment], Field(min_length=1)]

    def comparison(self, name: str) -> Comparison:
        """What tools.compare will do for an experiment; reads no data. Raises UserError for anything wrong with it."""
        item = self.experiments[name]
        given = Namespace(
            cfg=item.cfg,
            variants=item.variants,
            baseline=None,
            seeds=item.seeds,
            first_seed=item.first_seed,
            metric=item.metrics[0],
            out=self.out / item.cfg.stem,
            overrides=list(self.overrides),
            jobs=1,
            threads=1,
        )
        return make_comparison(given)

    def words(self, name: str, jobs: int) -> list[str]:
        """The arguments of tools.compare for an experiment. One thread a run, so that no machine's cores matter."""
        item = self.experiments[name]
        files = ["--cfg", str(item.cfg), "--variants", str(item.variants), "--out", str(self.out / item.cfg.stem)]
        first = ["--first-seed", str(item.first_seed)] if item.first_seed else []
        what = ["--seeds", str(item.seeds), *first, "--metric", item.metrics[0]]
        return [*files, *what, "--jobs", str(jobs), "--threads", "1", *self.overrides]


def read_result(path: Path, comparison: Comparison, metrics: Sequence[str]) -> dict[str, Any] | None:
    """The report at `path`; None if there is none, or not one of these settings, variants, seeds and metrics."""
    if not path.exists():
        return None
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        scores = [item["metrics"] for item in [*report["variants"], report["control"]]]
        changed = differences(report["config"], comparison.repeat.experiment.dump())
        variants = [(item["name"], item["overrides"]) for item in report["variants"]]
        found = (report["metric"], report["baseline"], report["seeds"], variants)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(path, "is damaged", "remove it and run python -m tools.minipaper again") from None
    asked = (comparison.metric, comparison.baseline, list(comparison.seeds), list(comparison.variants.items()))
    complete = {*MADE_OF, "step", "repeat"} <= report.keys() and all(set(metrics) <= values.keys() for values in scores)
    return report if found == asked and complete and not changed else None


def run_compare(words: Sequence[str]) -> None:
    """Run tools.compare to its end. If it fails, exit as it did: it has said why. Raises Interrupted after a signal."""
    with StopSignals() as stop:
        # A process group of its own: Ctrl-C on the terminal reaches this process alone, which passes it on once.
        process = Popen([sys.executable, "-m", "tools.compare", *words], process_group=0)
        while process.poll() is None:
            if stop.received is not None:
                process.send_signal(stop.received)
                try:
                    process.wait()
                except Interrupted as second:
                    process.send_signal(second.signal_number)
                    process.wait()
                raise Interrupted(stop.received)
            time.sleep(POLL_SECONDS)
    if process.returncode < 0:
        what = f"was ended by {signal.Signals(-process.returncode).name}"
        raise UserError("tools.compare", what, "run the same command again: it goes on where it stopped")
    if process.returncode:
        sys.exit(process.returncode)


def keep_result(out: Path, results: Path, name: str) -> None:
    """Copy what tools.compare wrote; the JSON last and at once, since an experiment that has one is finished."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "report.png", results / f"{name}.png")
        shutil.copyfile(out / "report.json", results / f"{name}.json.new")
        os.replace(results / f"{name}.json.new", results / f"{name}.json")
    except OSError as error:
        raise UserError(
            results, f"cannot be written ({error})", "run the same command again: all runs are kept"
        ) from None


def write_page(paper: MiniPaper, comparisons: dict[str, Comparison], root: Path) -> None:
    """RESULTS.md in `root` and its picture, of what is in results/ there."""
    sections = [
        Section(
            *(name, item.title, item.note, str(item.cfg), item.metrics, item.paper),
            lower_is_better=lower_is_better(comparisons[name], item.metrics),
            report=read_result(root / f"results/{name}.json", comparisons[name], item.metrics),
        )
        for name, item in paper.experiments.items()
    ]
    path, tables = root / "RESULTS.md", compare_sections(sections)
    text = page(sections, tables, read_paper())
    try:
        path.write_text(text)
        if tables:
            draw(tables, root / "results/overview.png")
    except OSError as error:
        raise UserError(path, f"cannot be written ({error})", "name another --root") from None


def lower_is_better(comparison: Comparison, metrics: Sequence[str]) -> dict[str, bool]:
    """Of each metric. Raises UserError for one that the task does not have."""
    known = comparison.repeat.experiment.build_metrics()
    names = [name for item in known for name in item.names]
    for metric in metrics:
        if metric not in names:
            raise UserError(f"{comparison.cfg}: metric {metric}", "is not one of its task", suggest(metric, names))
    return {metric: any(metric in item.lower_is_better for item in known) for metric in metrics}


def print_plan(comparisons: dict[str, Comparison], finished: set[str], jobs: int) -> None:
    """The runs of each experiment, the finished ones, and how long the others will take. Shared runs count once.

    finished: experiments that have their result; the runs behind it may be gone.
    """
    seen: set[Path] = set()
    print(f"{'experiment':<12}{'runs':>6}{'finished':>10}{'minutes left':>14}")
    for name, comparison in comparisons.items():
        runs = [run for run in comparison.runs if run.folder not in seen]
        seen.update(run.folder for run in runs)
        left = 0 if name in finished else sum(not run.finished for run in runs)
        durations = [
            seconds for other in comparisons.values() if other.out == comparison.out for seconds in timed(other)
        ]
        minutes = f"{left * statistics.median(durations) / jobs / 60:.0f}" if durations else "0" if not left else "?"
        print(f"{name:<12}{len(runs):>6}{len(runs) - left:>10}{minutes:>14}")
    print(f"minutes: {jobs} runs at a time, each as long as the finished ones of its configuration; ?: there are none")


def timed(comparison: Comparison) -> list[float]:
    """The seconds that finished runs took for steps and scores, not for their start."""
    return [_seconds(run) for run in comparison.runs if run.finished]


def _seconds(run: Run) -> float:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return run.experiment.steps * (run.seconds_per_step() or 0) + sum(
        line["seconds"] for line in lines if line["section"] == "val"
    )


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.minipaper", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="one experiment (default: all that are not finished)")
    parser.add_argument("--check", action="store_true", help="print the plan and exit")
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md again")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="J", help="runs at a time")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, metavar="FILE", help=f"default: {EXPERIMENTS}")
    parser.add_argument("--root", type=Path, default=Path(), help="where RESULTS.md and results/ lie (default: here)")
    given = parser.parse_args()

    paper = validate(MiniPaper, read_config(given.experiments), given.experiments)
    names = list(paper.experiments)
    if given.only is not None and given.only not in names:
        raise UserError(f"--only {given.only}", "no such experiment", suggest(given.only, names))
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}", "is less than 1", "give 1 or more")
    comparisons = {name: paper.comparison(name) for name in names}

    def finished(name: str) -> bool:
        path = given.root / f"results/{name}.json"
        return read_result(path, comparisons[name], paper.experiments[name].metrics) is not None

    if given.check:
        print_plan(comparisons, {name for name in names if finished(name)}, given.jobs)
        return
    write_page(paper, comparisons, given.root)
    for name in [] if given.report else [given.only] if given.only else names:
        if finished(name):
            print(f"{name}: finished before")
            continue
        run_compare(paper.words(name, given.jobs))
        keep_result(comparisons[name].out, given.root / "results", name)
        write_page(paper, comparisons, given.root)
    print(f"written to  {given.root / 'RESULTS.md'}")


if __name__ == "__main__":
    run_command(main)
