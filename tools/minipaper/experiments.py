"""The experiments of the mini-paper: read their list, run each with tools.compare, keep its result."""

import json
import os
import shutil
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from config import Schema
from errors import Interrupted, UserError
from runtime.changes import PLACES, changes
from runtime.signals import StopSignals
from tools.compare.comparison import lower_is_better, make_comparison
from tools.compare.runs import POLL_SECONDS, Comparison
from tools.minipaper.report import CIRCUMSTANCES, About, Section, compare_sections, draw, page, read_paper


class MiniExperiment(Schema):
    """One comparison. title, note: of its section in RESULTS.md. variants: a file for tools.compare --variants.

    seeds: number of seeds for each variant, from first_seed. metrics: all that are tested; the first is given to
    tools.compare. paper: name of the table in tools/minipaper/paper.json that is printed beside our numbers.
    overrides: KEY=VALUE for all its runs, which then go to a folder of their own.
    """

    title: str
    note: str = ""
    cfg: Path
    variants: Path
    seeds: PositiveInt
    first_seed: NonNegativeInt = 0
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    paper: str | None = None
    overrides: tuple[str, ...] = ()


class MiniPaper(Schema):
    """All experiments, in order. out: the runs of a configuration go to out/NAME_OF_CFG, which experiments share.

    title, note, page, results: of the document, and where what is kept lies. overrides: KEY=VALUE for all runs.
    """

    title: str = "Results of the mini-paper"
    note: str = ""
    page: Path = Path("RESULTS.md")
    results: Path = Path("results")
    out: Path
    overrides: tuple[str, ...] = ()
    experiments: Annotated[dict[str, MiniExperiment], Field(min_length=1)]

    def comparison(self, name: str) -> Comparison:
        """The comparison that tools.compare does for an experiment; reads no images. Raises UserError if invalid."""
        item = self.experiments[name]
        arguments = Namespace(
            cfg=item.cfg,
            variants=item.variants,
            baseline=None,
            seeds=item.seeds,
            first_seed=item.first_seed,
            metric=item.metrics[0],
            out=self._out(name),
            overrides=[*self.overrides, *item.overrides],
            jobs=1,
            threads=1,
        )
        return make_comparison(arguments)

    def compare_arguments(self, name: str, jobs: int) -> list[str]:
        """The command-line arguments of tools.compare for an experiment.

        One thread per run, so that the results do not depend on the number of cores.
        """
        item = self.experiments[name]
        files = ["--cfg", str(item.cfg), "--variants", str(item.variants), "--out", str(self._out(name))]
        first = ["--first-seed", str(item.first_seed)] if item.first_seed else []
        seeds = ["--seeds", str(item.seeds), *first, "--metric", item.metrics[0]]
        return [*files, *seeds, "--jobs", str(jobs), "--threads", "1", *self.overrides, *item.overrides]

    def _out(self, name: str) -> Path:
        item = self.experiments[name]
        return self.out / (name if item.overrides else item.cfg.stem)


def read_result(path: Path, comparison: Comparison, metrics: Sequence[str]) -> dict[str, Any] | None:
    """Read the report at `path`. None if there is none, or if it has other settings, variants, seeds or metrics."""
    if not path.exists():
        return None
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        scores = [item["metrics"] for item in [*report["variants"], report["control"]]]
        changed = changes(report["config"], comparison.repeat.experiment)
        changed = [change for change in changed if change.key not in PLACES]
        variants = [(item["name"], item["overrides"]) for item in report["variants"]]
        found = (report["metric"], report["baseline"], report["seeds"], variants)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(path, "is damaged", "remove it and run python -m tools.minipaper again") from None
    wanted = (comparison.metric, comparison.baseline, list(comparison.seeds), list(comparison.variants.items()))
    complete = {*CIRCUMSTANCES, "step", "repeat"} <= report.keys() and all(
        set(metrics) <= values.keys() for values in scores
    )
    return report if found == wanted and complete and not changed else None


def run_compare(arguments: Sequence[str]) -> None:
    """Run tools.compare to its end. Raises Interrupted after a stop signal.

    If it fails, it has printed the reason: exit with the same code.
    """
    with StopSignals() as stop:
        # In its own process group it does not get Ctrl-C from the terminal; this process passes it on once.
        process = Popen([sys.executable, "-m", "tools.compare", *arguments], process_group=0)
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
        raise UserError("tools.compare", what, "run the same command again: it continues where it stopped")
    if process.returncode:
        sys.exit(process.returncode)


def keep_result(out: Path, results: Path, name: str) -> None:
    """Copy the results of tools.compare. The JSON comes last and atomically: it marks the experiment as finished."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "report.png", results / f"{name}.png")
        shutil.copyfile(out / "report.json", results / f"{name}.json.new")
        os.replace(results / f"{name}.json.new", results / f"{name}.json")
    except OSError as error:
        raise UserError(
            results, f"cannot be written ({error})", "run the same command again: all runs are kept"
        ) from None


def write_page(paper: MiniPaper, comparisons: dict[str, Comparison], root: Path, command: str) -> None:
    """Write the page in `root`, and its picture, from the results there. command: without options."""
    sections = [
        Section(
            *(name, item.title, item.note, str(item.cfg), item.metrics, item.paper),
            lower_is_better=directions(comparisons[name], item.metrics),
            report=read_result(root / paper.results / f"{name}.json", comparisons[name], item.metrics),
        )
        for name, item in paper.experiments.items()
    ]
    path, tables = root / paper.page, compare_sections(sections)
    about = About(paper.title, paper.note, command, str(paper.results), str(paper.page))
    text = page(about, sections, tables, read_paper())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if tables:
            draw(tables, root / paper.results / "overview.png")
    except OSError as error:
        raise UserError(path, f"cannot be written ({error})", "name another --root") from None


def directions(comparison: Comparison, metrics: Sequence[str]) -> dict[str, bool]:
    """Whether lower is better, for each metric. Raises UserError for a metric that the task does not have."""
    where = f"{comparison.cfg}: metric"
    return {metric: lower_is_better(comparison.repeat.experiment, metric, where) for metric in metrics}
