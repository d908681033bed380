"""RESULTS.md: the sections of the mini-paper with the paper's figures beside, and what all verdicts come to."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from errors import UserError, suggest
from tools.compare.report import Compared, compare_control, compare_scores, repeat_in_words
from tools.compare.statistics import Estimate, mean
from tools.markdown import markdown_table

PAPER = Path(__file__).parent / "paper.json"
VERDICTS = ("better", "no difference shown", "worse", "no verdict")
COLORS = {"better": "tab:green", "no difference shown": "tab:blue", "worse": "tab:red", "no verdict": "tab:blue"}
MADE_OF = ("command", "device", "cpu", "jobs", "threads", "python", "torch", "commit", "date")

LIMITS = (
    "What such runs can show is little: a few hundred small rendered rooms, small models from random weights, a few "
    "hundred steps, 3 to 12 seeds, one CPU thread a run. At most they say whether an upsampler helps **there**. "
    "They do not repeat the paper's experiments: its numbers, of full-size models on real data sets, stand beside ours "
    'in a column of their own and are not to be compared with them. "No difference shown" is not "equal". In the '
    'column "80 %" stands how large a true difference would have to be for as many seeds to show it in 80 % of '
    "repetitions. It goes by the measured spread of the differences, which few seeds know badly: the right number lies "
    "between a half and six times the printed one with 3 seeds, between 0.6 and 3 times with 5, between 0.7 and 1.7 "
    "times with 12 (95 % intervals)."
)

OVERVIEW = (
    "![Differences to the baseline with 95 % intervals, first metric of each experiment](results/overview.png)\n\n"
    "Differences to the baseline, first metric of each experiment; right is better. The lines are the uncorrected 95 % "
    "intervals, so one may leave out 0 where the verdict, which goes by the corrected p, is no difference shown."
)


@dataclass(frozen=True)
class Section:
    """One experiment. paper: a table's name. lower_is_better: by metric. report: tools.compare's JSON, if it is run."""

    name: str
    title: str
    note: str
    cfg: str
    metrics: tuple[str, ...]
    paper: str
    lower_is_better: dict[str, bool]
    report: dict[str, Any] | None


@dataclass(frozen=True)
class Row:
    """A variant's scores and how they compare with the baseline's; the baseline itself is compared with nothing."""

    name: str
    score: Estimate
    compared: Compared | None


@dataclass(frozen=True)
class Table:
    """One metric of a finished experiment, compared with the baseline. The last row is the control."""

    section: Section
    metric: str
    rows: list[Row]

    @property
    def lower_is_better(self) -> bool:
        """Of the metric."""
        return self.section.lower_is_better[self.metric]


def read_paper() -> dict[str, Any]:
    """The numbers that the paper prints, and where they stand there."""
    record: dict[str, Any] = json.loads(PAPER.read_text())
    return record


def compare_sections(sections: Sequence[Section]) -> list[Table]:
    """A table for each metric of each section that has a report."""
    return [
        Table(section, metric, compare_metric(section.report, metric, section.lower_is_better[metric]))
        for section in sections
        if section.report is not None
        for metric in section.metrics
    ]


def compare_metric(report: dict[str, Any], metric: str, lower_is_better: bool) -> list[Row]:
    """One metric of a report, compared as tools.compare does it for its own. The last row is the control."""
    scores = {item["name"]: _numbers(item["metrics"][metric]) for item in report["variants"]}
    compared = compare_scores(scores, report["baseline"], lower_is_better)
    control = _numbers(report["control"]["metrics"][metric])
    return [
        *(Row(name, mean(values), compared.get(name)) for name, values in scores.items()),
        Row(
            report["control"]["name"],
            mean(control),
            compare_control(control, scores[report["baseline"]], lower_is_better),
        ),
    ]


def page(sections: Sequence[Section], tables: Sequence[Table], paper: dict[str, Any]) -> str:
    """RESULTS.md, of the tables that `compare_sections` gives.

    Raises UserError for a section that names a table which the paper's numbers lack.
    """
    for section in sections:
        if section.paper not in paper["tables"]:
            do = suggest(section.paper, list(paper["tables"]))
            raise UserError(f"experiment {section.name}: paper {section.paper}", f"is not in {PAPER.name}", do)
    done = sum(section.report is not None for section in sections)
    parts = [
        "# Results of the mini-paper",
        "Written by `python -m tools.minipaper` from `results/*.json`, not by hand. [docs/compare.md](docs/compare.md) "
        "says how to read a verdict.",
        _opening(tables, done, len(sections)),
        *([OVERVIEW] if tables else []),
        LIMITS,
        f"The paper: {paper['source']}",
    ]
    for section in sections:
        own = [table for table in tables if table.section is section]
        parts += [f"## {section.title}", *_section(section, own, paper["tables"][section.paper])]
    return "\n\n".join(parts) + "\n"


def _opening(tables: Sequence[Table], done: int, total: int) -> str:
    if not tables:
        return f"**None of the {total} experiments has been run yet.**"
    counts = [Counter(_kind(row.compared) for row in table.rows[:-1] if row.compared) for table in tables]
    every = sum(counts, Counter())
    controls = [table.rows[-1].compared for table in tables]
    alarms = sum(_kind(control) in ("better", "worse") for control in controls if control)
    words = ", ".join(f'{every[kind]} "{kind}"' for kind in VERDICTS if every[kind] or kind != "no verdict")
    text = (
        f"**{done} of {total} experiments are finished.** They make {every.total()} comparisons with a "
        f"baseline ({len(tables)} tables, one for each experiment and metric): {words}. Were there no difference "
        'anywhere, one table in twenty would still say "better" or "worse". The baseline against itself with other '
        f"seeds, once in each table, was found different in {alarms} of {len(tables)}."
    )
    rows = [
        [table.section.title, table.metric, *(str(count[kind]) for kind in VERDICTS)]
        for table, count in zip(tables, counts, strict=True)
    ]
    return f"{text}\n\n{markdown_table(['experiment', 'metric', *VERDICTS], rows)}"


def _section(section: Section, tables: Sequence[Table], printed: dict[str, Any]) -> list[str]:
    report = section.report
    note = [section.note] if section.note else []
    if report is None:
        return [*note, f"Not run yet: `python -m tools.minipaper --only {section.name}`"]
    seeds, repeat = report["seeds"], report["repeat"]
    parts = [
        *note,
        f"Ours: `{section.cfg}`, {report['step']} steps, seeds {seeds[0]} to {seeds[-1]}, scored after the last step. "
        f"The paper's column: {section.paper}, {printed['what']}; in brackets its difference to the baseline, as "
        "taken here.",
    ]
    for table in tables:
        parts += [
            f"### {table.metric} ({'lower' if table.lower_is_better else 'higher'} is better)",
            _metric_table(table.rows, report["baseline"], section.paper, printed["values"].get(table.metric, {})),
        ]
    if len(tables) > 1:
        parts.append(
            "Each table has a correction of its own, for the number of variants in it: of "
            f"{len(tables)} tables from the same runs, one or more may raise a false alarm in up to "
            f"{5 * len(tables)} % of cases."
        )
    control = report["control"]
    return [
        *parts,
        f"![{section.title}: {section.metrics[0]} of all runs](results/{section.name}.png)",
        f"**Control** ({control['name']}): seeds {', '.join(map(str, control['seeds']))}, tested without pairing and "
        f"outside the correction. **Repeat**: {report['baseline']} with seed {repeat['seed']}, run twice, is "
        f"{repeat_in_words(repeat)}.",
        "Made with: " + "; ".join(f"{key} `{report[key]}`" for key in MADE_OF) + ".",
    ]


def _metric_table(rows: Sequence[Row], baseline: str, name: str, values: dict[str, str]) -> str:
    header = ["variant", "ours: mean ± sd", f"minus {baseline} [95 %]", "p", "p, Holm", "verdict", "80 %"]
    return markdown_table([*header, f"the paper's, {name}"], [_cells(row, baseline, values) for row in rows])


def _cells(row: Row, baseline: str, values: dict[str, str]) -> list[str]:
    score, compared = f"{_number(row.score.mean)} ± {_number(row.score.sd)}", row.compared
    if compared is None:
        return [row.name, score, "-", "-", "-", "the baseline", "-", _printed(row.name, baseline, values)]
    found = compared.difference
    interval = f"{_number(found.mean, '+')} [{_number(found.low, '+')}, {_number(found.high, '+')}]"
    numbers = [_number(value, digits=2) for value in (found.p, compared.p)]
    shown = _number(found.smallest_shown(compared.family), digits=3)
    return [row.name, score, interval, *numbers, _kind(compared), shown, _printed(row.name, baseline, values)]


def _printed(name: str, baseline: str, values: dict[str, str]) -> str:
    if name not in values:
        return "-"
    if name == baseline or baseline not in values:
        return values[name]
    digits = min(len(value.partition(".")[2]) for value in (values[name], values[baseline]))  # of the more rounded one
    return f"{values[name]} ({Decimal(values[name]) - Decimal(values[baseline]):+.{digits}f})"


def _kind(compared: Compared) -> str:
    return next((kind for kind in VERDICTS if compared.verdict.startswith(kind)), "no verdict")


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _number(value: float, sign: str = "", digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}g}"


# --- picture ---------------------------------------------------------------------------------------------------------


def draw(tables: Sequence[Table], path: Path) -> None:
    """The differences of the first metric of each experiment, a panel each, as a PNG. Right is better."""
    from matplotlib.figure import Figure  # here, so that nothing but a picture waits for its import

    shown = [table for table in tables if table.metric == table.section.metrics[0]]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), dpi=120, layout="constrained")
    for place, table in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.axvline(0, color="0.8", linewidth=0.8)
        compared = [(row.name, row.compared) for row in table.rows if row.compared]
        for height, (name, found) in enumerate(compared):
            kind, difference = _kind(found), found.difference
            color = "0.6" if name == table.rows[-1].name else COLORS[kind]
            if not math.isnan(difference.mean):
                reach = 0.0 if math.isnan(difference.low) else difference.mean - difference.low
                axes.errorbar(difference.mean, height, xerr=reach, fmt="o", color=color, markersize=4, capsize=2)
        axes.set_yticks(range(len(compared)), [name for name, _ in compared], fontsize=8)
        axes.set_ylim(len(compared) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=8)
        if table.lower_is_better:
            axes.invert_xaxis()
        axes.set_title(table.section.title, fontsize=9)
        axes.set_xlabel(f"{table.metric} minus that of {table.rows[0].name}", fontsize=8)
    figure.savefig(path, format="png", metadata={"Software": None})
