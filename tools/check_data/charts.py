"""Charts of the page, as SVG: histograms of both splits side by side, with a text for every bar."""

from collections.abc import Callable, Mapping
from html import escape

import numpy as np

from tools.check_data.findings import SplitName
from tools.check_data.tally import Histogram

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 26
BINS = 24  # at most, of whole numbers
TICKS = 6  # at most, below
WIDEST = 22  # pixels of a bar

# Values and how often each occurs; None: once.
Values = tuple[np.ndarray, np.ndarray | None]


def evenly(series: Mapping[SplitName, Values], edges: np.ndarray | None = None) -> dict[SplitName, Histogram]:
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


def histogram(series: Mapping[SplitName, Histogram], label: Callable[[float], str], unit: str) -> str:
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
