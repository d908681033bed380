"""The results of tools.benchmark as a table, as a chart, and as JSON files by machine and date."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from errors import UserError
from tools.benchmark.options import RESULTS
from workflow.results import write_result


def describe(setting: dict[str, Any]) -> str:
    """The numbers of one setting as a table of text."""
    shape = " x ".join(map(str, setting["shape"]))
    layout = ", channels_last" if setting.get("channels_last") else ""
    floor = setting["floor_ms"]
    device, blank = (f" {'on device':>9}", " " * 10) if setting["device"] == "cuda" else ("", "")
    lines = [
        f"{shape} at scale {setting['scale']}, {setting['dtype']}{layout} on {setting['device']},"
        f" {setting['repeats']} rounds; copy {setting['copy_gb_per_s']:.4g} GB/s",
        f"{'':16} {'forward ms':>10} {'quartiles':>15}{device} {'x floor':>8} {'MB':>7} {'+ backward':>10}"
        f" {'quartiles':>15}{device} {'x floor':>8} {'MB':>7} {'weights':>9} {'GMACs':>7}",
        f"{'floor':16} {floor['forward']:10.4g} {'':15}{blank} {1:8} {'':7} {floor['forward_backward']:10.4g} {'':15}"
        f"{blank} {1:8}",
    ]
    for name, found in setting["upsamplers"].items():
        line = f"{name:16}"
        for kind in ("forward", "forward_backward"):
            ms = found[kind]["ms"]
            spread = f"{ms['q1']:.4g}..{ms['q3']:.4g}"
            alone = found[kind].get("device_ms")
            alone = (f" {alone:9.4g}" if alone else f" {'-':>9}") if device else ""
            line += (
                f" {ms['median']:10.4g} {spread:>15}{alone} {found[kind]['times_floor']:8.4g}"
                f" {found[kind]['peak_mb']:7.4g}"
            )
        lines.append(f"{line} {found['weights']:9,} {found['macs'] / 1e9:7.3f}")
    return "\n".join(lines)


def draw_chart(path: Path, settings: list[dict[str, Any]]) -> None:
    """Draw a chart for each setting: latency and memory of the forward pass, sizes by MACs as in the paper's Fig. 1."""
    from matplotlib.figure import Figure  # imported here because it is slow

    figure = Figure(figsize=(8, 4.5 * len(settings)), layout="constrained")
    for axes, setting in zip(figure.subplots(len(settings), squeeze=False)[:, 0], settings, strict=True):
        most = max(found["macs"] for found in setting["upsamplers"].values())
        for index, (name, found) in enumerate(setting["upsamplers"].items()):
            ms, peak = found["forward"]["ms"], found["forward"]["peak_mb"]
            style = {"color": f"C{index % 10}", "alpha": 0.6}
            spread = [[ms["median"] - ms["q1"]], [ms["q3"] - ms["median"]]]
            axes.errorbar(ms["median"], peak, xerr=spread, linewidth=1, **style)
            sizes = 30 + 900 * found["macs"] / most
            label, marker = f"{name}, {found['macs'] / 1e9:.3g} GMACs", "osD"[index // 10]
            axes.scatter(ms["median"], peak, sizes, marker=marker, linewidths=0, **style)
            axes.scatter([], [], 40, marker=marker, label=label, linewidths=0, **style)  # one size in the legend
        axes.axvline(setting["floor_ms"]["forward"], color="grey", linestyle="--", label="time of the memory traffic")
        shape = " x ".join(map(str, setting["shape"]))
        axes.set(xscale="log", xlabel="forward, ms", ylabel="peak memory of forward, MB", ymargin=0.12)
        axes.set_title(f"{shape}, {setting['dtype']}, {setting['machine']['device']}", fontsize="medium")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    figure.savefig(path, dpi=150)


def results_path(about: dict[str, Any]) -> Path:
    """The results file of a machine and date."""
    name = re.sub(r"\W+", "_", about["device"]).strip("_").lower()
    return RESULTS / f"upsamplers_{name}_{about['date']}.json"


def save(results: list[dict[str, Any]]) -> None:
    """Write the results to the file of their machine and date. They replace those of the same device, dtype and shape.

    Raises UserError if the file exists but does not hold such results.
    """
    for path in dict.fromkeys(results_path(setting["machine"]) for setting in results):
        kept = {}
        if path.exists():
            try:
                kept = {_key(setting): setting for setting in json.loads(path.read_text())["settings"]}
            except (ValueError, KeyError, TypeError):
                raise UserError(path, "holds no results of tools.benchmark", "move it away") from None
        kept |= {_key(setting): setting for setting in results if results_path(setting["machine"]) == path}
        write_result(path, {"settings": list(kept.values())})
        print(f"written to {path}", file=sys.stderr)


def _key(setting: dict[str, Any]) -> tuple[Any, ...]:
    return setting["device"], setting["dtype"], tuple(setting["shape"]), setting.get("channels_last", False)
