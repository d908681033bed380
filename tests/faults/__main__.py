"""`make faults`: the whole fault suite, and RELIABILITY.md from what it counted."""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.conftest import ROOT

INTRODUCTION = """# Reliability

What was broken on purpose, and what was lost by it. Written by `make faults` from its own counts; not edited.

{date}, {seconds:.0f} minutes on {cores} CPU cores; Python {python}, torch {torch}, {system}. {verdict}

**{tried:,} faults injected and inputs tried, {lost} lost or unexplained.**
"""


def main() -> int:
    """Run the suite; pytest's exit code."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", "not gpu", "--all-faults", "tests/faults"]
        environment = {**os.environ, "FAULT_TALLIES": folder, "OMP_NUM_THREADS": "1"}
        code = subprocess.run(
            [sys.executable, *words, *sys.argv[1:]], cwd=ROOT, env=environment, check=False
        ).returncode
        lines = [json.loads(line) for path in Path(folder).iterdir() for line in path.read_text().splitlines()]
    chapters: dict[str, dict[str, list[int]]] = {}
    for line in lines:
        counts = chapters.setdefault(line["chapter"], {}).setdefault(line["what"], [0, 0])
        counts[0] += line["tried"]
        counts[1] += line["lost"]
    totals = [sum(counts[index] for rows in chapters.values() for counts in rows.values()) for index in (0, 1)]
    text = INTRODUCTION.format(
        date=datetime.datetime.now(datetime.UTC).date(),
        seconds=(time.monotonic() - start) / 60,
        cores=os.cpu_count(),
        python=platform.python_version(),
        torch=torch.__version__,
        system=platform.system(),
        verdict="All tests of the suite passed." if code == 0 else "SOME TESTS OF THE SUITE FAILED.",
        tried=totals[0],
        lost=totals[1],
    )
    for chapter, rows in sorted(chapters.items()):
        text += f"\n## {chapter}\n\n| what was done, and what had to hold | tried | lost |\n|---|---:|---:|\n"
        text += "".join(f"| {what} | {tried:,} | {lost:,} |\n" for what, (tried, lost) in sorted(rows.items()))
    (ROOT / "RELIABILITY.md").write_text(text)
    print(f"{ROOT / 'RELIABILITY.md'}: {totals[0]:,} tried, {totals[1]:,} lost")
    return code


if __name__ == "__main__":
    sys.exit(main())
