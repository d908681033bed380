"""Charts of the pages, as SVG: histograms of splits side by side, curves of runs, reliability; each mark has a text."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TypeVar

import numpy as np

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 26
BINS = 24  # at most, of whole numbers
TICKS = 6  # at most, below
WIDEST = 22  # pixels of a bar
SPACE = 24  # more to the left of curves, whose numbers are longer
COLOURS = 8  # of curves, see the style
MOST_DOTS = 60  # points of a curve that are marked

Name = TypeVar("Name", bound=str)  # of a series
# (lower edge of each bin and the end of the last, number in each bin)
Histogram = tuple[np.ndarray, np.ndarray]
# Values and how often each occurs; None: once.
Values = tuple[np.ndarray, np.ndarray | None]


def evenly(series: Mapping[Name, Values], edges: np.ndarray | None = None) -> dict[Name, Histogram]:
    """Histograms with common edges. edges: None: for whole numbers, evenly spaced from the least to the largest.

    Values beyond the edges count to the first or the last bin.
    """
    if edges is None:
        low = min(int(values.min()) for values, _ in series.values())
        high = max(int(values.max()) for values, _ in series.values())
        step = -(-(high + 1 - low) // BINS)
        edges = np.arange(low, high + step + 1, step)
    inside = {name: (values.clip(edges[0], edges[-1]), weights) for name, (values, weights) in series.items()}
    return {
        name: (edges, np.histogram(values, edges, weights=weights)[0]) for name, (values, weights) in inside.items()
    }


def histogram(series: Mapping[Name, Histogram], label: Callable[[float], str], unit: str) -> str:
    """Bars for each split, as shares of the split, so that a small one can be compared with a large one.

    series: by split, with common edges; bins that are empty at both ends are left out. label: the text of an edge.
    unit: what is counted, in the plural.
    """
    used = np.flatnonzero(sum(numbers for _, numbers in series.values()))
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    edges = next(iter(series.values()))[0][first : last + 2]
    counts = {name: numbers[first : last + 1] for name, (_, numbers) in series.items()}
    shares = {name: numbers / max(numbers.sum(), 1) for name, numbers in counts.items()}
    top = max(float(values.max()) for values in shares.values()) or 1.0
    bins, floor = len(edges) - 1, HEIGHT - BOTTOM
    step = (WIDTH - LEFT - RIGHT) / bins
    wide = min(0.85 * step / len(series), WIDEST)
    parts = []
    for share in (0.5, 1.0):
        y = floor - share * (floor - TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_tick(LEFT - 6, y + 3.5, "end", _percent(share * top)))
    for number, (name, values) in enumerate(shares.items()):
        for index, share in enumerate(values.tolist()):
            if share:
                x = LEFT + (index + 0.5) * step + (number - len(series) / 2) * wide
                count = f"{int(counts[name][index]):,} {unit} ({_percent(share)})"
                text = f"{name}: {_between(edges, index, label)}: {count}"
                parts.append(_bar(name, x, wide, max(1.0, share / top * (floor - TOP)), text))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    if bins == 1 and edges[1] - edges[0] == 1:  # one whole number
        parts.append(_tick(LEFT + step / 2, HEIGHT - 9, "middle", label(float(edges[0]))))
        bins = -1
    for index in range(0, bins + 1, -(-bins // TICKS) or 1):
        if np.isfinite(edges[index]):
            parts.append(_tick(LEFT + index * step, HEIGHT - 9, "middle", label(float(edges[index]))))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _bar(name: str, x: float, width: float, height: float, text: str) -> str:
    y = HEIGHT - BOTTOM - height
    shape = f'x="{x:.2f}" y="{y:.2f}" width="{max(width - 0.5, 0.5):.2f}" height="{height:.2f}" rx="1"'
    return f'<rect class="{name}" {shape}><title>{escape(text)}</title></rect>'


def _tick(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _between(edges: np.ndarray, index: int, label: Callable[[float], str]) -> str:
    low, high = float(edges[index]), float(edges[index + 1])
    return f"{label(low)} or more" if not np.isfinite(high) else f"{label(low)} to {label(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


# --- curves ----------------------------------------------------------------------------------------------------------


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_name: str) -> str:
    """Lines, one for each series: (x, y) of its points; values that are not finite are left out.

    The colour of the series number n is the class `cN` of the style.
    """
    points = {name: [(x, y) for x, y in zip(*xy, strict=True) if np.isfinite(y)] for name, xy in series.items()}
    everything = [point for line in points.values() for point in line]
    if not everything:
        return '<p class="note">no finite value</p>'
    (left, low), (right, high) = np.min(everything, axis=0).tolist(), np.max(everything, axis=0).tolist()
    width, height = right - left or 1.0, high - low or abs(high) or 1.0
    floor = HEIGHT - BOTTOM

    def place(x: float, y: float) -> str:
        across = LEFT + SPACE + (x - left) / width * (WIDTH - LEFT - SPACE - RIGHT)
        return f"{across:.1f},{floor - 4 - (y - low) / height * (floor - 4 - TOP):.1f}"

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = float(place(left, low + share * height).split(",")[1])
        parts.append(f'<line class="grid" x1="{LEFT + SPACE}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_tick(LEFT + SPACE - 6, y + 3.5, "end", f"{low + share * height:.3g}"))
    for index, (name, line) in enumerate(points.items()):
        shape = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline class="c{index % COLOURS}" points="{shape}"/>')
        for x, y in line if len(line) <= MOST_DOTS else line[-1:]:
            across, down = place(x, y).split(",")
            text = escape(f"{name}: {y:.4g} at {x_name} {x:g}")
            parts.append(
                f'<circle class="c{index % COLOURS}" cx="{across}" cy="{down}" r="3"><title>{text}</title></circle>'
            )
    parts.append(f'<line class="axis" x1="{LEFT + SPACE}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(_tick(LEFT + SPACE, HEIGHT - 9, "start", f"{left:g}"))
    parts.append(_tick(WIDTH - RIGHT, HEIGHT - 9, "end", f"{x_name} {right:g}"))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def reliability(bins: Sequence[tuple[float, float, int]]) -> str:
    """For each bin of scores with entries: (mean score, share that is right, entries). The diagonal is calibrated."""
    size, edge = HEIGHT, 30
    span = size - 2 * edge

    def place(x: float, y: float) -> tuple[float, float]:
        return edge + x * span, size - edge - y * span

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    parts = [f'<line class="grid" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>']
    parts += [f'<line class="axis" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y0}"/>']
    parts += [f'<line class="axis" x1="{x0}" y1="{y0}" x2="{x0}" y2="{y1}"/>']
    most = max((count for _, _, count in bins), default=1)
    for score, right, count in bins:
        x, y = place(score, right)
        text = f"score {score:.2f}: {_percent(right)} of {count:,} are right"
        radius = 2.5 + 5 * (count / most) ** 0.5
        parts.append(
            f'<circle class="c0" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{escape(text)}</title></circle>'
        )
    parts += [_tick(x0, size - 9, "middle", "0"), _tick(x1, size - 9, "middle", "score 1")]
    parts.append(_tick(x0 + 6, y1 + 4, "start", "100 % are right"))
    return f'<svg class="square" viewBox="0 0 {size} {size}" role="img">{"".join(parts)}</svg>'
