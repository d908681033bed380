"""The page of a list of experiments, beside the paper's figures where it has some: a summary, and all verdicts."""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from errors import UserError, suggest
from tools.compare.report import Outcome, compare_control, compare_scores, describe_repeat
from tools.compare.statistics import Estimate, mean
from tools.markdown import markdown_table

PAPER = Path(__file__).parent / "paper.json"
VERDICTS = ("better", "no difference shown", "worse", "no verdict")
COLORS = {"better": "tab:green", "no difference shown": "tab:blue", "worse": "tab:red", "no verdict": "tab:blue"}
CIRCUMSTANCES = ("command", "device", "cpu", "jobs", "threads", "python", "torch", "commit", "date")

LIMITS = (
    "These runs can show only little: a few hundred small rendered rooms, small models with random initial weights, "
    "hundreds or a few thousand steps, 3 to 12 seeds, one CPU thread per run. At most they show whether an upsampler "
    'helps **there**. "No difference shown" does not mean "equal". The '
    'column "80 %" says how large a true difference would have to be for this number of seeds to show it in 80 % of '
    "repetitions. It is computed from the measured spread of the differences, which a few seeds estimate badly: the "
    "right number lies between a half and six times the printed one with 3 seeds, between 0.6 and 3 times with 5, "
    "between 0.7 and 1.7 times with 12 (95 % intervals)."
)

NOT_THE_PAPER = (
    "They do not repeat the paper's experiments: its numbers come from full-size models on real datasets. They are "
    "printed in a separate column and must not be compared with ours."
)

OVERVIEW = (
    "![Differences to the baseline with 95 % intervals, first metric of each experiment]({picture})\n\n"
    "Differences to the baseline, first metric of each experiment; right is better. The lines are uncorrected 95 % "
    "intervals, but verdicts use the corrected p. So an interval may exclude 0 although no difference is shown."
)


@dataclass(frozen=True)
class About:
    """A page. command: that writes it. results: folder of the results. file: the page; both from the same root."""

    title: str
    note: str
    command: str
    results: str
    file: str

    def link(self, path: str) -> str:
        """A path from the root as a link on the page."""
        return os.path.relpath(path, os.path.dirname(self.file))


@dataclass(frozen=True)
class Section:
    """One experiment. paper: name of the paper's table, if it has one. lower_is_better: for each metric.

    report: the JSON of tools.compare; None if the experiment is not finished.
    """

    name: str
    title: str
    note: str
    cfg: str
    metrics: tuple[str, ...]
    paper: str | None
    lower_is_better: dict[str, bool]
    report: dict[str, Any] | None


@dataclass(frozen=True)
class Row:
    """The score of a variant. outcome: its comparison with the baseline; None for the baseline itself."""

    name: str
    score: Estimate
    outcome: Outcome | None


@dataclass(frozen=True)
class Table:
    """One metric of a finished experiment: all variants, compared with the baseline. The last row is the control."""

    section: Section
    metric: str
    rows: list[Row]

    @property
    def lower_is_better(self) -> bool:
        """Whether lower is better for this metric."""
        return self.section.lower_is_better[self.metric]


def read_paper() -> dict[str, Any]:
    """Read the paper's numbers, and where they are printed."""
    record: dict[str, Any] = json.loads(PAPER.read_text())
    return record


def compare_sections(sections: Sequence[Section]) -> list[Table]:
    """Make a table for each metric of each section that has a report."""
    return [
        Table(section, metric, compare_metric(section.report, metric, section.lower_is_better[metric]))
        for section in sections
        if section.report is not None
        for metric in section.metrics
    ]


def compare_metric(report: dict[str, Any], metric: str, lower_is_better: bool) -> list[Row]:
    """Compare one metric of a report, as tools.compare does for its own metric. The last row is the control."""
    scores = {item["name"]: _numbers(item["metrics"][metric]) for item in report["variants"]}
    outcomes = compare_scores(scores, report["baseline"], lower_is_better)
    control = _numbers(report["control"]["metrics"][metric])
    return [
        *(Row(name, mean(values), outcomes.get(name)) for name, values in scores.items()),
        Row(
            report["control"]["name"],
            mean(control),
            compare_control(control, scores[report["baseline"]], lower_is_better),
        ),
    ]


def page(about: About, sections: Sequence[Section], tables: Sequence[Table], paper: dict[str, Any]) -> str:
    """The text of the page. tables: from `compare_sections`. paper: from `read_paper`.

    Raises UserError if a section names a table that `paper` does not have.
    """
    for section in sections:
        if section.paper is not None and section.paper not in paper["tables"]:
            do = suggest(section.paper, list(paper["tables"]))
            raise UserError(f"experiment {section.name}: paper {section.paper}", f"is not in {PAPER.name}", do)
    done = sum(section.report is not None for section in sections)
    with_paper = any(section.paper is not None for section in sections)
    parts = [
        f"# {about.title}",
        f"Written by `{about.command}` from `{about.results}/*.json`, not by hand. "
        f"[docs/compare.md]({about.link('docs/compare.md')}) says how to read a verdict.",
        *([about.note] if about.note else []),
        _opening(tables, done, len(sections)),
        *([OVERVIEW.format(picture=about.link(f"{about.results}/overview.png"))] if tables else []),
        LIMITS,
        *([f"{NOT_THE_PAPER} The paper: {paper['source']}"] if with_paper else []),
    ]
    for section in sections:
        section_tables = [table for table in tables if table.section is section]
        printed = None if section.paper is None else paper["tables"][section.paper]
        parts += [f"## {section.title}", *_section(about, section, section_tables, printed)]
    return "\n\n".join(parts) + "\n"


def _opening(tables: Sequence[Table], done: int, total: int) -> str:
    if not tables:
        return f"**None of the {total} experiments has been run yet.**"
    counts = [Counter(_kind(row.outcome) for row in table.rows[:-1] if row.outcome) for table in tables]
    sums = sum(counts, Counter())
    controls = [table.rows[-1].outcome for table in tables]
    alarms = sum(_kind(control) in ("better", "worse") for control in controls if control)
    summary = ", ".join(f'{sums[kind]} "{kind}"' for kind in VERDICTS if sums[kind] or kind != "no verdict")
    text = (
        f"**{done} of {total} experiments are finished.** They make {sums.total()} comparisons with a "
        f"baseline ({len(tables)} tables, one for each experiment and metric): {summary}. If there were no "
        'difference anywhere, one table in twenty would still say "better" or "worse". Each table also compares the '
        f"baseline with itself under other seeds; this showed a difference in {alarms} of {len(tables)} tables."
    )
    rows = [
        [table.section.title, table.metric, *(str(count[kind]) for kind in VERDICTS)]
        for table, count in zip(tables, counts, strict=True)
    ]
    return f"{text}\n\n{markdown_table(['experiment', 'metric', *VERDICTS], rows)}"


def _section(about: About, section: Section, tables: Sequence[Table], printed: dict[str, Any] | None) -> list[str]:
    report = section.report
    note = [section.note] if section.note else []
    if report is None:
        return [*note, f"Not run yet: `{about.command} --only {section.name}`"]
    seeds, repeat = report["seeds"], report["repeat"]
    parts = [
        *note,
        f"Ours: `{section.cfg}`, {report['step']} steps, seeds {seeds[0]} to {seeds[-1]}, scored after the last step."
        + (
            f" The paper's column: {section.paper}, {printed['what']}; in brackets its difference to the baseline "
            "of this table."
            if printed
            else ""
        ),
    ]
    for table in tables:
        parts += [
            f"### {table.metric} ({'lower' if table.lower_is_better else 'higher'} is better)",
            _metric_table(table, report["baseline"], printed["values"].get(table.metric, {}) if printed else None),
        ]
    if len(tables) > 1:
        parts.append(
            "Each table is corrected separately, for its number of variants. Of "
            f"{len(tables)} tables from the same runs, one or more may raise a false alarm in up to "
            f"{5 * len(tables)} % of cases."
        )
    control, picture = report["control"], f"{about.results}/{section.name}.png"
    return [
        *parts,
        f"![{section.title}: {section.metrics[0]} of all runs]({about.link(picture)})",
        f"**Control** ({control['name']}): seeds {', '.join(map(str, control['seeds']))}, tested without pairing and "
        f"without correction. **Repeat**: {report['baseline']} with seed {repeat['seed']}, run twice, is "
        f"{describe_repeat(repeat)}.",
        "Made with: " + "; ".join(f"{key} `{report[key]}`" for key in CIRCUMSTANCES) + ".",
    ]


def _metric_table(table: Table, baseline: str, values: dict[str, str] | None) -> str:
    header = ["variant", "ours: mean ± sd", f"minus {baseline} [95 %]", "p", "p, Holm", "verdict", "80 %"]
    rows = [_cells(row) for row in table.rows]
    if values is None:
        return markdown_table(header, rows)
    rows = [[*cells, _printed(row.name, baseline, values)] for cells, row in zip(rows, table.rows, strict=True)]
    return markdown_table([*header, f"the paper's, {table.section.paper}"], rows)


def _cells(row: Row) -> list[str]:
    score, outcome = f"{_number(row.score.mean)} ± {_number(row.score.sd)}", row.outcome
    if outcome is None:
        return [row.name, score, "-", "-", "-", "the baseline", "-"]
    found = outcome.difference
    interval = f"{_number(found.mean, '+')} [{_number(found.low, '+')}, {_number(found.high, '+')}]"
    numbers = [_number(value, digits=2) for value in (found.p, outcome.p)]
    shown = _number(found.smallest_shown(outcome.family), digits=3)
    return [row.name, score, interval, *numbers, _kind(outcome), shown]


def _printed(name: str, baseline: str, values: dict[str, str]) -> str:
    if name not in values:
        return "-"
    if name == baseline or baseline not in values:
        return values[name]
    digits = min(
        len(value.partition(".")[2]) for value in (values[name], values[baseline])
    )  # as the figure with fewer digits
    return f"{values[name]} ({Decimal(values[name]) - Decimal(values[baseline]):+.{digits}f})"


def _kind(outcome: Outcome) -> str:
    return next((kind for kind in VERDICTS if outcome.verdict.startswith(kind)), "no verdict")


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _number(value: float, sign: str = "", digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}g}"


# --- picture ---------------------------------------------------------------------------------------------------------


def draw(tables: Sequence[Table], path: Path) -> None:
    """Draw the differences of the first metric of each experiment as a PNG, one panel each. Right is better."""
    from matplotlib.figure import Figure  # imported here because it is slow

    shown = [table for table in tables if table.metric == table.section.metrics[0]]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), dpi=120, layout="constrained")
    for place, table in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.axvline(0, color="0.8", linewidth=0.8)
        outcomes = [(row.name, row.outcome) for row in table.rows if row.outcome]
        for height, (name, found) in enumerate(outcomes):
            kind, difference = _kind(found), found.difference
            color = "0.6" if name == table.rows[-1].name else COLORS[kind]
            if not math.isnan(difference.mean):
                half_width = 0.0 if math.isnan(difference.low) else difference.mean - difference.low
                axes.errorbar(difference.mean, height, xerr=half_width, fmt="o", color=color, markersize=4, capsize=2)
        axes.set_yticks(range(len(outcomes)), [name for name, _ in outcomes], fontsize=8)
        axes.set_ylim(len(outcomes) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=8)
        if table.lower_is_better:
            axes.invert_xaxis()
        axes.set_title(table.section.title, fontsize=9)
        axes.set_xlabel(f"{table.metric} minus that of {table.rows[0].name}", fontsize=8)
    figure.savefig(path, format="png", metadata={"Software": None})
