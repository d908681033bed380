"""The report as one HTML page, which needs nothing else: no network, no script."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from html import escape
from pathlib import Path

import numpy as np

from pictures import class_colours
from tools.check_data.check import Report, Split
from tools.check_data.findings import Finding, SplitName, by_kind
from tools.check_data.sheet import MOST, Card, cards
from tools.check_data.tally import ASPECTS, SHARES
from tools.check_data.text import SHOWN, split_lines, verdict
from tools.pages.charts import Histogram, evenly, histogram
from tools.pages.html import breakable, end, start

STATES = ("sound", "warns", "stops")  # by exit code
SIGNS = ("✓", "!", "✕")
ORDER = (
    "images with findings, the kinds taking turns; those with much fewer labelled pixels than others; those with the "
)
ORDER += "most objects; then an even spread"


def page(report: Report) -> Iterator[str]:
    """The page in parts; the pictures are read and drawn one at a time."""
    name, code = escape(report.source), report.code
    yield start(f"{report.source}: data")
    yield f'<header><p class="kicker">{escape(report.info.name)} · {report.info.task} · {date.today()}</p>'
    sign, text = SIGNS[code], escape(verdict(report))
    yield f'<h1>{name}</h1><p class="verdict {STATES[code]}"><span>{sign}</span>{text}</p></header>'
    yield from _summary(report)
    yield from _findings(report)
    yield from _charts(report)
    yield from _classes(report)
    yield from _sheet(report)
    yield end("tools.check_data", "Nothing in the data was changed.")


def _summary(report: Report) -> Iterator[str]:
    yield '<div class="tiles">'
    for name, split in report.splits.items():
        first, *others = split_lines(split)
        items = "".join(f"<li>{escape(line)}</li>" for line in others)
        yield f'<section class="tile"><h3>{_mark(name)}{name}</h3><p class="big">{escape(first)}</p>'
        yield f"<ul>{items}</ul></section>"
    yield "</div>"


def _mark(name: str) -> str:
    """A dot in the colour of a split."""
    return f'<i class="{name}"></i>'


# --- findings --------------------------------------------------------------------------------------------------------


def _findings(report: Report) -> Iterator[str]:
    yield '<h2 id="findings">Findings</h2>'
    groups = by_kind(report.findings)
    if not groups:
        yield '<p class="note">None. Every image and annotation could be read, and fits its counterpart.</p>'
    for number, ((stops, kind), findings) in enumerate(groups.items()):
        state, text = ("stops", "would stop training") if stops else ("warns", "training survives")
        is_open = " open" if number < 3 else ""
        yield f'<details class="group"{is_open}><summary><b class="badge {state}">{text}</b>'
        yield f"<strong>{escape(kind)}</strong><em>{len(findings):,}</em></summary>"
        yield from _table(findings[:SHOWN])
        if more := findings[SHOWN:]:
            yield f"<details><summary>{len(more):,} more</summary>"
            yield from _table(more)
            yield "</details>"
        yield "</details>"


def _table(findings: Iterable[Finding]) -> Iterator[str]:
    yield "<table>"
    for item in findings:
        yield f'<tr><td class="split">{_mark(item.split)}{item.split}</td><td class="file">{breakable(item.file)}</td>'
        yield f'<td>{escape(item.what)}<p class="do">{escape(item.do)}</p></td></tr>'
    yield "</table>"


# --- charts ----------------------------------------------------------------------------------------------------------


def _charts(report: Report) -> Iterator[str]:
    tallies = {name: split.tally for name, split in report.splits.items() if split.tally.read.any()}
    if not tallies:
        return
    yield f'<h2>What the data hold</h2>{_legend(tallies)}<div class="charts">'
    sizes = {name: tally.image_sizes() for name, tally in tallies.items()}
    long_sides = {name: (size.max(axis=1), weights) for name, (size, weights) in sizes.items()}
    aspects = {name: (size[:, 1] / size[:, 0], weights) for name, (size, weights) in sizes.items()}
    yield _chart("Longer side of the images, in pixels", evenly(long_sides), "{:.0f}", "images")
    yield _chart("Width / height of the images", evenly(aspects, ASPECTS), "{:.2f}", "images")
    if any(tally.num_objects.any() for tally in tallies.values()):
        sides = {name: tally.object_sides() for name, tally in tallies.items()}
        yield _chart("Objects by the square root of their area, in pixels", sides, "{:.0f}", "objects")
        numbers = {name: (tally.num_objects[tally.read], None) for name, tally in tallies.items()}
        yield _chart("Objects in an image", evenly(numbers), "{:.0f}", "images")
    if report.info.task == "depth":
        yield _chart("Depth, in metres", {name: tally.depths() for name, tally in tallies.items()}, "{:.1f}", "pixels")
    if report.info.task in ("semantic", "panoptic", "depth"):
        unit = "a depth" if report.info.task == "depth" else "a class"
        shares = evenly({name: (100 * tally.labelled[tally.read], None) for name, tally in tallies.items()}, SHARES)
        yield _chart(f"Images by their share of pixels with {unit}, in percent", shares, "{:.0f}", "images")
    yield "</div>"


def _chart(title: str, series: Mapping[SplitName, Histogram], form: str, unit: str) -> str:
    return f"<figure><figcaption>{title}</figcaption>{histogram(series, form.format, unit)}</figure>"


def _legend(names: Iterable[str]) -> str:
    keys = "".join(f"<span>{_mark(name)}{name}</span>" for name in names)
    return (
        f'<p class="legend">{keys}<span class="note">Bars are shares of their split; rest on one to read it.</span></p>'
    )


def _classes(report: Report) -> Iterator[str]:
    """A table of all classes with bars, the most frequent first."""
    splits = {name: split for name, split in report.splits.items() if split.tally.read.any()}
    columns = [
        name for name in ("images", "objects", "pixels") if any(_column(split, name).any() for split in splits.values())
    ]
    if not report.info.classes or not columns:
        return
    totals = sum(_column(split, columns[-1]) for split in splits.values())
    colours = class_colours(report.info)
    heads = "".join(f"<th>{name}</th>" for name in ("class", *columns))
    yield "<h2>Classes</h2>" + _legend(splits)
    yield f'<div class="scroll"><table class="classes"><thead><tr>{heads}</tr></thead><tbody>'
    for label in np.argsort(-totals, kind="stable").tolist():
        name = report.info.classes[label]
        cells = "".join(f"<td>{_bars(splits, column, label)}</td>" for column in columns)
        yield f'<tr><th><i style="background:rgb{colours[name]}"></i>{escape(name)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _column(split: Split, name: str) -> np.ndarray:
    numbers: np.ndarray = getattr(split.tally, name)
    return numbers


def _bars(splits: Mapping[SplitName, Split], column: str, label: int) -> str:
    """The number of each split, with a bar as long as its share of the most frequent class."""
    parts = []
    for name, split in splits.items():
        values = _column(split, column)
        number, largest, total = int(values[label]), max(int(values.max()), 1), max(int(values.sum()), 1)
        text = f"{100 * number / total:.2f} %" if column == "pixels" else f"{number:,}"
        missing = " none" if column == "images" and not number else ""
        length = f'<b class="{name}" style="width:{100 * number / largest:.2f}%"></b>' if number else ""
        title = f"{name}: {number:,} {column}"
        parts.append(
            f'<div class="bar{missing}" title="{title}"><span>{length}</span>{text if number or missing else "–"}</div>'
        )
    return "".join(parts)


# --- pictures --------------------------------------------------------------------------------------------------------


def _sheet(report: Report) -> Iterator[str]:
    yield f'<h2>Pictures</h2><p class="note">At most {MOST}, worst first: {ORDER}. Click one to enlarge it.</p>'
    yield '<div class="sheet">'
    for number, card in enumerate(cards(report)):
        yield _card(card, number)
    yield "</div>"


def _card(card: Card, number: int) -> str:
    height, width = card.size
    state = "" if card.stops is None else STATES[1 + card.stops]
    picture = '<div class="blank">cannot be read</div>'
    if card.jpeg:
        source = f"data:image/jpeg;base64,{card.jpeg}"
        size = f'width="{width}" height="{height}"'
        image = f'<img src="{source}" {size} loading="lazy" alt="{escape(Path(card.file).name)}">'
        picture = f'<a href="#picture{number}">{image}</a>'
    chips = "".join(f'<span><i style="background:rgb{rgb}"></i>{escape(name)}</span>' for name, rgb in card.classes)
    return (
        f'<figure class="card {state}" id="picture{number}">{picture}<figcaption>'
        f'<p class="why">{escape(card.reason)}</p><p class="file">{_mark(card.split)}{breakable(card.file)}</p>'
        f'<p class="chips">{chips}</p></figcaption><a class="close" href="#_" aria-label="close"></a></figure>'
    )
