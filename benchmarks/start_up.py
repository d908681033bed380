"""Seconds until a command answers: `python -m benchmarks.start_up [--rounds 5] [--json FILE]`.

Every command prints its help, in turns with a process that imports PyTorch and ends. `train.py --check` of a demo, one
step of training and one prediction on one thread, takes turns with it too. Needs data/scenes (`make scenes`).
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.pairs import compare, publish
from benchmarks.segformer_step import positive
from errors import ArgumentParser, run_command

ROOT = Path(__file__).parent.parent
CHECK = ["train.py", "--cfg", "configs/small/seg.yaml", "system.workers=0", "--check"]
HELP_GOAL = 3.5  # times `import torch`: 0.4 s where that takes 1.4 s. The goal of --check is 3 s, whatever the machine


def commands() -> dict[str, list[str]]:
    """What starts each command."""
    files = [*(ROOT / "tools").glob("*.py"), *(ROOT / "tools").glob("*/__main__.py")]
    found = {path.parent.name if path.stem == "__main__" else path.stem: path for path in sorted(files)}
    tools = [name for name, path in found.items() if "run_command(main)" in path.read_text()]
    return {name: [name] for name in ("train.py", "eval.py")} | {
        f"tools.{name}": ["-m", f"tools.{name}"] for name in tools
    }


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
    pairs: dict[str, tuple[float | None, list[str]]] = {
        f"{name} --help": (HELP_GOAL, [*words, "--help"]) for name, words in commands().items()
    }
    pairs["train.py --check"] = (None, CHECK)
    rows = [
        compare(work, "import torch", partial(start, *words), torch, goal=goal, rounds=arguments.rounds)
        for work, (goal, words) in pairs.items()
    ]
    publish(rows, arguments.json, rounds=arguments.rounds)


if __name__ == "__main__":
    run_command(main)
