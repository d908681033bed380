"""A chart of a host as SVG: differences to the baseline with intervals against latency, on light and on dark pages."""

import math
from html import escape

from tools.board.costs import Measured
from tools.board.judge import JudgedColumn

WIDTH, HEIGHT = 960, 580
LEFT, RIGHT, TOP, FLOOR = 70, 20, 60, 400  # FLOOR: the bottom of the plot; names of upsamplers stand below
STYLE = """
svg { --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0;
      --mark: #0969da; --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
        --mark: #4493f8; --good: #3fb950; --bad: #f85149; }
}
.paper { fill: var(--paper); } .band { fill: var(--line); opacity: .45; }
text { fill: var(--ink); font: 13px system-ui, sans-serif; } .soft { fill: var(--soft); }
line { stroke: var(--line); } .guide { stroke-dasharray: 2 3; } .interval { stroke-width: 2; }
.zero { stroke: var(--soft); stroke-width: 1.5; } .none { stroke: var(--mark); fill: var(--paper); }
.better { stroke: var(--good); fill: var(--good); } .worse { stroke: var(--bad); fill: var(--bad); }
"""


def draw(judged: JudgedColumn, measured: Measured | None) -> str | None:
    """Draw a host's first metric against the latency of the forward pass (logarithmic). Up is better.

    Rows without a difference or a latency are left out; None if nothing is left. The grey band is the interval of the
    baseline against itself with other seeds: what chance alone does.
    """
    metric = judged.column.host.metrics[0]
    sign = -1 if judged.column.lower_is_better[metric] else 1
    costs = measured.costs if measured else {}
    shown = [
        (costs[row.name]["forward"], row)
        for row in judged.compared
        if metric in row.differences and row.name in costs and not math.isnan(row.differences[metric].low)
    ]
    if not shown:
        return None
    shown.sort(key=lambda item: item[0])
    reach = [
        sign * value
        for row in [*(row for _, row in shown), judged.control]
        if metric in row.differences
        for value in (row.differences[metric].low, row.differences[metric].high)
        if not math.isnan(value)
    ]
    low, high = min([0.0, *reach]), max([0.0, *reach])
    margin = 0.05 * (high - low or 1)
    low, high = low - margin, high + margin
    least, most = math.log(shown[0][0] / 1.15), math.log(shown[-1][0] * 1.15)

    def x_of(cost: float) -> float:
        return LEFT + (math.log(cost) - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return FLOOR - (sign * value - low) / (high - low) * (FLOOR - TOP)

    parts = [f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>']
    control = judged.control.differences.get(metric)
    if control is not None and not math.isnan(control.low):
        top, bottom = sorted((y_of(control.low), y_of(control.high)))
        text = f"{judged.control.name}: {control.mean:+.3g} [{control.low:+.3g}, {control.high:+.3g}]"
        box = f'x="{LEFT}" y="{top:.1f}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - top:.1f}"'
        parts.append(f'<rect class="band" {box}><title>{escape(text)}</title></rect>')
    for value in _ticks(low, high):
        y = y_of(sign * value)
        kind = "zero" if value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{f"{sign * value:+.3g}" if value else "0"}</text>'
        )
    step = (WIDTH - LEFT - RIGHT) / len(shown)
    for index, (cost, row) in enumerate(shown):
        found, x, place = row.differences[metric], x_of(cost), LEFT + (index + 0.5) * step
        kind = _kind(row.outcome.verdict if row.outcome else "")
        text = f"{row.name}: {found.mean:+.3g} [{found.low:+.3g}, {found.high:+.3g}], {cost:.3g} ms"
        ends = f'y1="{y_of(found.low):.1f}" y2="{y_of(found.high):.1f}"'
        parts += [
            f'<line class="guide" x1="{x:.1f}" x2="{x:.1f}" y1="{y_of(found.mean):.1f}" y2="{FLOOR}"/>',
            f'<line x1="{x:.1f}" x2="{place:.1f}" y1="{FLOOR}" y2="{FLOOR + 36}"/>',
            f"<g><title>{escape(text)}</title>"
            f'<line class="interval {kind}" x1="{x:.1f}" x2="{x:.1f}" {ends}/>'
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y_of(found.mean):.1f}" r="4.5"/></g>',
            f'<text transform="translate({place + 4:.1f} {FLOOR + 42}) rotate(90)">{escape(row.name)}'
            f'<tspan class="soft"> {cost:.3g} ms</tspan></text>',
        ]
    direction = "lower is better, so the axis is turned" if sign < 0 else "higher is better"
    host = judged.column.host
    title = f"{host.title}: {metric} minus that of {host.baseline}, 95 % intervals ({direction})"
    below = f"to the right: forward pass, ms, on {measured.device} ({measured.file.name})" if measured else ""
    parts += [
        f'<text x="{LEFT}" y="22">{escape(title)}</text>',
        f'<text class="soft" x="{LEFT}" y="42">{escape(below)}</text>',
    ]
    view = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">'
    return f"{view}<title>{escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</svg>\n"


def _kind(verdict: str) -> str:
    return next((kind for kind in ("better", "worse") if verdict.startswith(kind)), "none")


def _ticks(low: float, high: float) -> list[float]:
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= (high - low) / 6)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
