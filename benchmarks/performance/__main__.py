"""Run every comparison of speed side by side: `python -m benchmarks.performance [NAME ..] [--no-peers]` (`make bench`).

Writes benchmarks/results/performance_MACHINE_DATE.json and docs/performance.md. The other libraries go into an
environment of their own, .venv-bench, which also sees the packages of .venv; without a network ours is measured alone.
Names: only these comparisons; the others keep their rows of the same day.
"""

import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pairs import record
from errors import ArgumentParser, run_command
from storage import write_text
from tools.markdown import markdown_table

RESULTS, DOCUMENT, ENVIRONMENT = Path("benchmarks/results"), Path("docs/performance.md"), Path(".venv-bench")
COMPARISONS = (
    "coco_parsing",
    "detector_step",
    "evaluation.coco_ap",
    "evaluation.depth_errors",
    "evaluation.mean_iou",
    "evaluation.panoptic_quality",
    "input_pipeline",
    "maskformer_step",
    "sampler_cpu",
    "scaling",
    "segformer_step",
    "start_up",
    "step_options",
)
PEERS = (  # each is installed for itself: one that is missing hinders no other
    "transformers",
    "faster-coco-eval",
    "git+https://github.com/cocodataset/panopticapi",
    "git+https://github.com/bowenc0221/boundary-iou-api",
)


def python_with_peers() -> str:
    """The Python of .venv-bench, made if needed; of this process where that or the installation is impossible."""
    python = ENVIRONMENT / "bin/python"
    if not python.exists() and subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=False).returncode:
        print("peers: .venv-bench cannot be made; ours is measured alone", flush=True)
        return sys.executable
    for site in ENVIRONMENT.glob("lib/python*/site-packages"):
        (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    for peer in PEERS:
        if subprocess.run([*pip, peer], stderr=subprocess.DEVNULL, check=False).returncode:
            print(f"peers: {peer} cannot be installed; ours is measured alone there", flush=True)
    return str(python)


def run(python: str, name: str) -> dict[str, Any]:
    """The record of one comparison with its command; instead of rows the exit code if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        print(f"$ python -m benchmarks.{name}", flush=True)
        code = subprocess.run([python, "-m", f"benchmarks.{name}", "--json", path], check=False).returncode
        found = {"exit_code": code} if code else json.loads(path.read_text())
    return {"command": f"python -m benchmarks.{name}", **found}


def page(found: dict[str, dict[str, Any]]) -> str:
    """A section for each comparison, in Markdown."""
    goals = {True: "met", False: "**not met**", None: ""}
    sections = [
        "# Performance",
        "Written by `make bench`. Ratio: time of the peer divided by ours, median of turns; above 1 we are faster.",
    ]
    for part in found.values():
        sections.append(f"## `{part['command']}`")
        if "rows" not in part:
            sections.append(f"It failed with exit code {part['exit_code']}.")
            continue
        sections.append(f"{part['device']}, threads: {part['threads']}, {part['date']}, torch {part['torch']}")
        lines = []
        for row in part["rows"]:
            peer_s = "" if row["peer_s"] is None else f"{row['peer_s']:.4g}"
            ratio = "not installed" if row["ratio"] is None else f"{row['ratio']:.2f}"
            goal = "" if row["goal"] is None else f"{row['goal']:g}"
            lines.append([row["work"], row["peer"], f"{row['ours_s']:.4g}", peer_s, ratio, goal, goals[row["is_met"]]])
        sections.append(markdown_table(("work", "peer", "ours, s", "peer, s", "ratio", "goal", ""), lines))
    return "\n\n".join(sections) + "\n"


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.performance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMPARISONS))
    parser.add_argument("--no-peers", action="store_true", help="install nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(COMPARISONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; names are {', '.join(COMPARISONS)}")
    about = record([])
    machine = re.sub(r"\W+", "_", about["device"]).strip("_").lower()
    path = RESULTS / f"performance_{machine}_{about['date']}.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    python = sys.executable if arguments.no_peers else python_with_peers()
    for name in arguments.names or COMPARISONS:
        found[name] = run(python, name)
        write_text(path, json.dumps(found, indent=2) + "\n")
        write_text(DOCUMENT, page(found))
    print(f"written to {path} and {DOCUMENT}")
    if any("exit_code" in part for part in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
