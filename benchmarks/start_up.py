"""Seconds until a command answers: `python -m benchmarks.start_up [--rounds 5] [--json FILE]`.

Every command prints its help, in turns with a process that imports PyTorch and ends; of the tools the slowest counts.
`train.py --check` of a demo, one step of training and one prediction on one thread, takes turns with it too. Needs
data/scenes (`make scenes`).
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.pairs import Row, compare, publish, seconds
from benchmarks.segformer_step import positive
from errors import ArgumentParser, run_command

ROOT = Path(__file__).parent.parent
CHECK = ["train.py", "--cfg", "configs/small/seg.yaml", "system.workers=0", "--check"]
HELP_GOAL = 3.5  # times `import torch`: 0.4 s where that takes 1.4 s. The goal of --check is 3 s, whatever the machine


def tools() -> list[str]:
    """The names of all tools that are commands."""
    files = [*(ROOT / "tools").glob("*.py"), *(ROOT / "tools").glob("*/__main__.py")]
    found = {path.parent.name if path.stem == "__main__" else path.stem: path for path in sorted(files)}
    return [name for name, path in found.items() if "run_command(main)" in path.read_text()]


def start(*arguments: str) -> None:
    """Run Python with these arguments to its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.start_up", description=__doc__)
    parser.add_argument("--rounds", type=positive, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch = partial(start, "-c", "import torch")

    def against_torch(work: str, goal: float | None, *words: str) -> Row:
        return compare(work, "import torch", partial(start, *words), torch, goal=goal, rounds=arguments.rounds)

    names = tools()
    slowest = max(names, key=lambda name: seconds(partial(start, "-m", f"tools.{name}", "--help")))
    rows = [
        against_torch("train.py --help", HELP_GOAL, "train.py", "--help"),
        against_torch("eval.py --help", HELP_GOAL, "eval.py", "--help"),
        against_torch(
            f"tools.{slowest} --help, the slowest of {len(names)} tools", HELP_GOAL, "-m", f"tools.{slowest}", "--help"
        ),
        against_torch("train.py --check", None, *CHECK),
    ]
    publish(rows, arguments.json, rounds=arguments.rounds)


if __name__ == "__main__":
    run_command(main)
