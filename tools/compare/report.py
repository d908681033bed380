"""The report of a comparison: as a record, as Markdown, as a picture."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tools.compare.runs import Comparison, Run
from tools.compare.statistics import LEVEL, Estimate, holm, mean, paired_difference, unpaired_difference
from tools.markdown import markdown_table
from workflow.environment import cpu_name


@dataclass(frozen=True)
class Outcome:
    """A difference to the baseline with its verdict. p: corrected for the number of comparisons, `family`."""

    difference: Estimate
    p: float
    family: int
    verdict: str


def compare_scores(scores: Mapping[str, Sequence[float]], baseline: str, lower_is_better: bool) -> dict[str, Outcome]:
    """Compare each other variant with the baseline, seed by seed, with Holm's correction. NaN: no score."""
    others = [variant for variant in scores if variant != baseline]
    differences = {variant: paired_difference(scores[variant], scores[baseline]) for variant in others}
    tested = [variant for variant in others if not math.isnan(differences[variant].p)]
    corrected = dict(zip(tested, holm([differences[variant].p for variant in tested]), strict=True))
    return {
        variant: judge(found, corrected.get(variant, math.nan), len(others), lower_is_better, len(scores[baseline]))
        for variant, found in differences.items()
    }


def compare_control(control: Sequence[float], baseline: Sequence[float], lower_is_better: bool) -> Outcome:
    """Compare the baseline with itself under other seeds: a difference by chance. Not part of Holm's correction."""
    found = unpaired_difference(control, baseline)
    return judge(found, found.p, 1, lower_is_better, len(baseline))


def judge(difference: Estimate, p: float, family: int, lower_is_better: bool, seeds: int) -> Outcome:
    """The outcome of a difference to the baseline. p: corrected for a family of comparisons."""
    return Outcome(difference, p, family, verdict(difference, p, lower_is_better, seeds, family))


def make_report(
    comparison: Comparison, costs: dict[str, dict[str, Any]], circumstances: dict[str, Any]
) -> dict[str, Any]:
    """Make the report of finished runs: all their numbers and the verdicts.

    costs: by variant, as `tools.complexity` counts them. circumstances: command and machine. Missing numbers are NaN.
    """
    metric, baseline = comparison.metric, comparison.baseline
    runs = comparison.paired
    scores = {name: [run.final_metrics()[metric] for run in variant_runs] for name, variant_runs in runs.items()}
    outcomes = compare_scores(scores, baseline, comparison.lower_is_better)
    control_scores = [run.final_metrics()[metric] for run in comparison.control]
    control = compare_control(control_scores, scores[baseline], comparison.lower_is_better)
    experiment = comparison.repeat.experiment
    return {
        "cfg": str(comparison.cfg),
        "overrides": comparison.overrides,
        "task": experiment.data.info.task,
        "dataset": experiment.data.info.name,
        "metric": metric,
        "lower_is_better": comparison.lower_is_better,
        "step": experiment.steps,
        "seeds": list(comparison.seeds),
        "baseline": baseline,
        "config": experiment.dump(),
        "variants": [
            {
                "name": name,
                "overrides": comparison.variants[name],
                "step": variant_runs[0].experiment.steps,
                **_cost_record(costs[name], costs[baseline]),
                "seconds_per_step": _median(run.seconds_per_step() for run in variant_runs),
                **_score_record(scores[name], variant_runs),
                "comparison": _outcome_record(outcomes[name]) if name in outcomes else None,
            }
            for name, variant_runs in runs.items()
        ],
        "control": {
            "name": f"{baseline} again",
            "seeds": [run.experiment.seed for run in comparison.control],
            **_score_record(control_scores, comparison.control),
            "comparison": _outcome_record(control),
        },
        "repeat": compare_repeat(runs[baseline][0], comparison.repeat),
        **circumstances,
        "cpu": cpu_name(),
        "date": date.today().isoformat(),
        "commit": ", ".join(sorted({run.commit() for run in comparison.runs})),
    }


def verdict(difference: Estimate, p: float, lower_is_better: bool, seeds: int, family: int = 1) -> str:
    """The verdict on a difference to the baseline, in words. p: its p-value, corrected for `family` comparisons."""
    if seeds == 1:
        return "one seed shows nothing"
    if math.isnan(difference.mean):
        return "no verdict: the metric has no value in one of the runs"
    if difference.standard_error == 0:
        if difference.mean == 0:
            return "no difference shown (the scores are equal)"
        return "no verdict: the scores differ by the same amount in every pair, so the test has no spread to use"
    if p < LEVEL:
        sign = math.copysign(1, difference.mean)
        low, high = sorted((sign * difference.low, sign * difference.high))
        word = "worse" if (sign > 0) == lower_is_better else "better"
        return f"{word} by {_short(abs(difference.mean))} [{_short(low)}, {_short(high)}]"
    shown = _short(difference.smallest_shown(family))
    return f"no difference shown ({seeds} seeds show a true difference of {shown} in 80 % of repetitions)"


def compare_repeat(run: Run, again: Run) -> dict[str, Any]:
    """Whether two runs with the same seed gave bit-equal numbers, in all metrics of all evaluations."""
    first, second = run.evaluations(), again.evaluations()
    pairs = [
        (value, second[step][name])
        for step in first.keys()
        & second.keys()  # if a run is killed while it logs, an evaluation before the last may be missing
        for name, value in first[step].items()
    ]
    unequal = [abs(one - two) for one, two in pairs if one != two and not (math.isnan(one) and math.isnan(two))]
    return {
        "seed": run.experiment.seed,
        "equal": not unequal,
        "numbers": len(pairs),
        "largest_difference": math.nan if any(map(math.isnan, unequal)) else max(unequal, default=0.0),
    }


def describe_repeat(repeat: dict[str, Any]) -> str:
    """The result of `compare_repeat` in words."""
    if repeat["equal"]:
        return f"equal to the last digit in all {repeat['numbers']} numbers of its evaluations"
    largest = repeat["largest_difference"]
    if largest is None or math.isnan(largest):
        return "NOT equal: a number has a value in one of the two only"
    return f"NOT equal, by up to {_short(largest)}: the machine adds noise to that of the seeds"


def _score_record(scores: Sequence[float], runs: Sequence[Run]) -> dict[str, Any]:
    found = mean(scores)
    final = [run.final_metrics() for run in runs]
    return {
        "scores": list(scores),
        "mean": found.mean,
        "sd": found.sd,
        "interval": [found.low, found.high],
        "metrics": {name: [values[name] for values in final] for name in final[0]},
    }


def _outcome_record(outcome: Outcome) -> dict[str, Any]:
    difference = outcome.difference
    return {
        "difference": difference.mean,
        "interval": [difference.low, difference.high],
        "sd": difference.sd,
        "p": difference.p,
        "p_corrected": outcome.p,
        "smallest_shown": difference.smallest_shown(),
        "smallest_shown_corrected": difference.smallest_shown(outcome.family),
        "verdict": outcome.verdict,
    }


def _cost_record(cost: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    return {
        "params": cost["params"],
        "params_added": cost["params"] - baseline["params"],
        "macs": cost["macs"],
        "macs_added": cost["macs"] - baseline["macs"],
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: dict[str, Any]) -> str:
    """The report as a page of Markdown."""
    metric, seeds, baseline, control = (report[key] for key in ("metric", "seeds", "baseline", "control"))
    direction = "lower" if report["lower_is_better"] else "higher"
    family = len(report["variants"]) - 1
    compared = [variant for variant in report["variants"] if variant["comparison"]]
    repeat, steps = report["repeat"], sorted({variant["step"] for variant in report["variants"]})
    parts = [
        f"# {report['cfg']}: {metric} ({direction} is better)",
        f"Score: the last evaluation, at step {' or '.join(map(str, steps))}. {len(seeds)} seeds for each variant, "
        f"{seeds[0]} to {seeds[-1]}, compared seed by seed with {baseline}.",
        markdown_table(
            ["variant", "mean", "standard deviation", "95 % interval of the mean"],
            [
                [item["name"], _short(item["mean"]), _short(item["sd"]), _interval(item["interval"])]
                for item in [*report["variants"], control]
            ],
        ),
        markdown_table(
            [f"minus {baseline}", "difference", "95 % interval", "p", "p, Holm", "smallest shown", "verdict"],
            [_comparison_row(item["name"], item["comparison"]) for item in [*compared, control]],
        ),
        "p: two-sided paired t-test. p, Holm: corrected for the number of variants compared; the verdict uses it. "
        f"Smallest shown: the true difference that {len(seeds)} seeds show in 80 % of repetitions at the 5 % level"
        + (
            f"; in brackets at {100 * LEVEL / family:.2g} %, the strictest level that Holm's correction may use."
            if family > 1
            else "."
        ),
        f"**Control**: {control['name']} is {baseline} with seeds {', '.join(map(str, control['seeds']))} "
        "(Welch's unpaired t-test, not corrected). A difference there is a false alarm; at most one report in twenty "
        f"has one. **Repeat**: {baseline} with seed {repeat['seed']} was run twice, and is "
        f"{describe_repeat(repeat)}.",
        markdown_table(
            ["variant", "parameters", "added", "GMACs", "added", "seconds per step"],
            [
                [
                    item["name"],
                    f"{item['params']:,}",
                    f"{item['params_added']:+,}",
                    f"{item['macs'] / 1e9:.3f}",
                    f"{item['macs_added'] / 1e9:+.3f}",
                    _short(item["seconds_per_step"]),
                ]
                for item in report["variants"]
            ],
        ),
        markdown_table(
            ["score with seed", *map(str, seeds)],
            [[item["name"], *map(_short, item["scores"])] for item in report["variants"]],
        ),
        f"Made by `{report['command']}` on {report['date']}: {report['device']}, {report['cpu']}, CPU threads "
        f"of a run: {report['threads']}, runs at a time: {report['jobs']}, Python {report['python']}, "
        f"torch {report['torch']}, commit {report['commit']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _comparison_row(name: str, compared: dict[str, Any]) -> list[str]:
    smallest, corrected = (_short(compared[key]) for key in ("smallest_shown", "smallest_shown_corrected"))
    return [
        name,
        _short(compared["difference"]),
        _interval(compared["interval"]),
        _short(compared["p"]),
        _short(compared["p_corrected"]),
        smallest if smallest == corrected else f"{smallest} ({corrected})",
        compared["verdict"],
    ]


def _interval(ends: Sequence[float]) -> str:
    return "-" if math.isnan(ends[0]) else f"[{_short(ends[0])}, {_short(ends[1])}]"


def _short(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


# --- picture ---------------------------------------------------------------------------------------------------------


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the scores as a PNG: one point per run, lines between runs of the same seed, means with 95 % intervals."""
    from matplotlib.figure import Figure  # imported here because it is slow

    items = [*report["variants"], report["control"]]
    columns = range(len(items))
    figure = Figure(figsize=(2 + 1.3 * len(items), 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for line in zip(*(item["scores"] for item in report["variants"]), strict=True):
        axes.plot(columns[:-1], line, color="0.75", linewidth=0.8, zorder=1)
    for column, item in zip(columns, items, strict=True):
        axes.scatter([column] * len(item["scores"]), item["scores"], s=14, color="tab:blue", zorder=2)
        half_width = 0.0 if math.isnan(item["interval"][0]) else item["mean"] - item["interval"][0]
        axes.errorbar(
            column + 0.18, item["mean"], half_width, fmt="o", color="black", markersize=4, capsize=4, zorder=3
        )
    names = [f"{item['name']}\n(other seeds)" if item is report["control"] else item["name"] for item in items]
    axes.set_xticks(columns, names)
    axes.set_xlim(-0.5, len(items) - 0.3)
    axes.set_ylabel(f"{report['metric']} ({'lower' if report['lower_is_better'] else 'higher'} is better)")
    axes.set_title(f"{Path(report['cfg']).name}: runs, joined by seed; mean and 95 % interval", fontsize=9)
    figure.savefig(path, format="png", metadata={"Software": None})
