"""Runs as one HTML page. A run has the same colour everywhere."""

import json
import math
from collections.abc import Iterable, Iterator
from datetime import date
from html import escape
from typing import Any

import cv2

from metrics.depth_errors import DepthErrors
from structures import image_sort_key
from tools.pages.charts import COLOURS, curves
from tools.pages.html import bar, card, charts, end, figure, fold, lead, number, start, table, tile
from tools.report.runs import Run, flat

WIDEST = 1280  # pixels of a picture, which has several panels
CHARTS_SHOWN = 6  # of a section; the others are folded
TEXTS = ("class", "thing")  # columns of per-class records that are no scores
COUNTS = ("pixels", "objects", "TP", "FP", "FN", "bTP", "bFP", "bFN")


def page(runs: list[Run]) -> Iterator[str]:
    """The page in parts."""
    names = ", ".join(run.name for run in runs)
    yield start(f"{names}: report")
    tasks = " · ".join(dict.fromkeys(f"{run.result['dataset']} · {run.result['task']}" for run in runs if run.result))
    yield f'<header><p class="kicker">{escape(tasks)}{" · " if tasks else ""}{date.today()}</p>'
    yield f"<h1>{escape(names)}</h1></header>"
    yield '<div class="tiles">'
    for index, run in enumerate(runs):
        yield _tile(run, index, len(runs))
    yield "</div>"
    yield from _pictures(runs)
    yield from _curves(runs)
    yield from _scores(runs)
    yield from _classes(runs)
    yield from _cost(runs)
    yield from _settings(runs)
    yield from _environment(runs)
    yield end("tools.report")


def _name(run: Run, index: int) -> str:
    return f'<i class="c{index % COLOURS}"></i>{escape(run.name)}'


def _tile(run: Run, index: int, count: int) -> str:
    steps = [line["step"] for line in run.log]
    lines = [f"{max(steps, default=0):,} of {run.config.get('steps', '?')} steps"]
    rate = run.median("images_per_second")
    lines += [f"{rate:.1f} images per second"] if rate else []
    big = "not evaluated yet"
    if run.metric:
        name, _ = run.metric
        big = f"{name} {number(run.result['metrics'][name], '{:.4g}')}"
        lines.append(f"best evaluation: at step {run.result.get('step')}, of {run.result.get('num_images')} images")
    return tile(run.name, big, lines).replace(
        "<h3>", f'<h3 class="run"><i class="c{index % COLOURS}"></i>' if count > 1 else "<h3>"
    )


# --- pictures --------------------------------------------------------------------------------------------------------


def _pictures(runs: list[Run]) -> Iterator[str]:
    """The pictures of each image, those of all runs after another."""
    found = [run.pictures() for run in runs]
    images = sorted({name for pictures in found for name in pictures}, key=image_sort_key)
    if not images:
        return
    yield f'<h2>Pictures</h2>{lead("Of the last evaluation. Click one to enlarge it.")}<div class="sheet wide">'
    count = 0
    for image in images:
        for run, pictures in zip(runs, found, strict=True):
            picture = cv2.imread(str(pictures[image]), cv2.IMREAD_COLOR) if image in pictures else None
            if picture is not None:
                yield card(picture[..., ::-1], count, run.name if len(runs) > 1 else image, image, WIDEST)
                count += 1
    yield "</div>"


# --- curves ----------------------------------------------------------------------------------------------------------


def _curves(runs: list[Run]) -> Iterator[str]:
    legend = f'<p class="legend">{"".join(f"<span>{_name(run, index)}</span>" for index, run in enumerate(runs))}</p>'
    for section, heading in (("train", "Training"), ("val", "Evaluations")):
        found = [run.series(section) for run in runs]
        first = [run.metric[0] for run in runs if run.metric] if section == "val" else ["loss"]
        names = list(dict.fromkeys([*first, *(name for series in found for name in series)]))
        if section == "train" and {"loss"} < set(names) and sum(name.startswith("loss") for name in names) == 2:
            names = [
                name for name in names if name == "loss" or not name.startswith("loss")
            ]  # the only term is the loss
        shown = [_chart(name, runs, found) for name in names if any(_finite(series, name) for series in found)]
        if shown:
            yield f"<h2>{heading}</h2>{legend if len(runs) > 1 else ''}"
            yield charts(shown[:CHARTS_SHOWN])
            if more := shown[CHARTS_SHOWN:]:
                yield fold(f"{len(more)} more", charts(more))


def _finite(series: dict[str, tuple[list[float], list[float]]], name: str) -> bool:
    return name in series and any(map(math.isfinite, series[name][1]))


def _chart(name: str, runs: list[Run], found: list[dict[str, tuple[list[float], list[float]]]]) -> str:
    lines = {run.name: series.get(name, ([], [])) for run, series in zip(runs, found, strict=True)}
    return figure(name.replace("_", " "), curves(lines, "step"))


# --- scores ----------------------------------------------------------------------------------------------------------


def _scores(runs: list[Run]) -> Iterator[str]:
    names = list(dict.fromkeys(name for run in runs for name in run.result.get("metrics", {})))
    if not names:
        return
    if len(runs) == 1 and all("/" in name for name in names):
        yield f"<h2>Scores</h2>{lead('Of the best evaluation.')}{_by_kind(runs[0].result['metrics'])}"
        return
    rows = []
    for name in names:
        values = [run.result.get("metrics", {}).get(name) for run in runs]
        rows.append([escape(name), *_compared(values, name in DepthErrors.lower_is_better)])
    yield '<h2>Scores</h2><p class="lead">Of the best evaluation of each run'
    yield (
        "; in brackets: less the first run, from single runs, so not free of chance.</p>" if len(runs) > 1 else ".</p>"
    )
    yield _beside(runs, "metric", rows)


def _by_kind(metrics: dict[str, float]) -> str:
    """A table of KIND/STAT numbers, with a column for each kind."""
    kinds, stats = (list(dict.fromkeys(name.split("/")[place] for name in metrics)) for place in (0, 1))
    rows = ([escape(stat), *(_score(metrics.get(f"{kind}/{stat}")) for kind in kinds)] for stat in stats)
    return f'<div class="compact">{table(["metric", *kinds], rows)}</div>'


def _compared(values: list[float | None], lower_is_better: bool) -> Iterator[str]:
    """The values as cells: the best one marked, the others with their difference to the first."""
    known = [value for value in values if value is not None]
    best = (min if lower_is_better else max)(known) if len(known) > 1 else None
    for index, value in enumerate(values):
        text = number(value, "{:.4g}")
        if index and value is not None and values[0] is not None:
            text += f' <span class="note">({value - values[0]:+.3g})</span>'
        yield f'<span class="best">{text}</span>' if value is not None and value == best else text


def _beside(runs: list[Run], head: str, rows: Iterable[list[str]]) -> str:
    """A table with a column for each run."""
    return table([head, *(run.name for run in runs)], rows)


def _classes(runs: list[Run]) -> Iterator[str]:
    with_classes = [(index, run) for index, run in enumerate(runs) if run.result.get("per_class")]
    if not with_classes:
        return
    if len(runs) == 1:
        records = runs[0].result["per_class"]
        scores = [name for name in records[0] if name not in (*TEXTS, *COUNTS)]
        counts = [name for name in records[0] if name in COUNTS]
        rows = [
            [
                escape(record["class"]),
                *(_score(record[name]) for name in scores),
                *(f"{record[name]:,}" for name in counts),
            ]
            for record in records
        ]
        yield "<h2>Classes</h2>" + f'<div class="compact">{table(["class", *scores, *counts], rows)}</div>'
        return
    scores = [name for name in with_classes[0][1].result["per_class"][0] if name not in (*TEXTS, *COUNTS)]
    by_run = [{record["class"]: record for record in run.result.get("per_class", [])} for run in runs]
    for place, name in enumerate(scores):
        rows = []
        for label in dict.fromkeys(label for records in by_run for label in records):
            values = [records.get(label, {}).get(name) for records in by_run]
            rows.append([escape(label), *(_score(value, f"c{index % COLOURS}") for index, value in enumerate(values))])
        content = _beside(runs, "class", rows)
        if place == 0:
            yield f'<h2>Classes</h2><p class="lead">{escape(name)}</p>{content}'
        else:
            yield fold(name, content)


def _score(value: float | None, colour: str = "c0") -> str:
    return bar(value, 100, number(value), colour=colour)


# --- cost, settings, environment -------------------------------------------------------------------------------------


def _cost(runs: list[Run]) -> Iterator[str]:
    def counted(run: Run, *keys: str) -> Any:
        value: Any = run.cost
        for key in keys:
            value = value[key] if isinstance(value, dict) else None
        return value

    def line(name: str, *keys: str) -> list[str]:
        return [name, *(_rounded(counted(run, *keys)) for run in runs)]

    sizes = (counted(run, "input") for run in runs)
    rows = [
        line("parameters", "params"),
        line("of them in upsamplers", "upsamplers", "params"),
        line("MACs of one image", "macs"),
        line("of them in upsamplers", "upsamplers", "macs"),
        ["size of that image (width x height)", *(f"{size[2]} x {size[1]}" if size else "–" for size in sizes)],
        ["images per second in training", *(number(run.median("images_per_second")) for run in runs)],
        ["memory in training, GiB", *(number(run.median("memory_gb"), "{:.2f}") for run in runs)],
        ["seconds of the best evaluation", *(number(run.result.get("seconds")) for run in runs)],
    ]
    yield "<h2>Cost</h2>" + _beside(runs, "", rows)
    for run in runs:
        if isinstance(run.cost, str):
            yield f'<p class="note">{escape(run.name)} could not be counted: {escape(run.cost)}</p>'


def _rounded(count: float | None) -> str:
    """A count with its unit: thousands, millions, thousands of millions."""
    if count is None:
        return "–"
    unit, scale = next((pair for pair in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if count >= pair[1]), ("", 1))
    return f"{count / scale:.2f} {unit}" if unit else f"{count:.0f}"


def _settings(runs: list[Run]) -> Iterator[str]:
    settings = [flat(run.config) for run in runs]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    rows = {key: [_value(one[key]) if key in one else "–" for one in settings] for key in keys}
    different = {key: values for key, values in rows.items() if len(set(values)) > 1}
    if len(runs) > 1:
        yield "<h2>Settings that differ</h2>"
        if different:
            yield _beside(runs, "setting", ([escape(key), *_differing(values)] for key, values in different.items()))
        else:
            yield '<p class="note">None but the names of the runs.</p>'
    else:
        yield "<h2>Settings</h2>"
    same = [[escape(key), *map(escape, values[:1])] for key, values in rows.items() if key not in different]
    title = f"{len(same)} settings{' that are equal' if len(runs) > 1 else ''}"
    yield fold(title, table(["setting", "value"], same))


def _differing(values: list[str]) -> list[str]:
    return [f'<span class="differs">{escape(value)}</span>' for value in values]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _environment(runs: list[Run]) -> Iterator[str]:
    found = [run.result.get("environment", {}) for run in runs]
    keys = list(dict.fromkeys(key for one in found for key in one))
    if keys:
        yield "<h2>Environment</h2>"
        yield _beside(runs, "", ([escape(key), *(escape(str(one.get(key, "–"))) for one in found)] for key in keys))
