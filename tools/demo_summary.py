"""What a demo run has come to: `python -m tools.demo_summary RUN_FOLDER`. Its scores, a baseline, where things lie."""

import json
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, run_command


def commonest_class(per_class: list[dict[str, Any]]) -> tuple[str, float]:
    """The class with the most labelled pixels, and the mIoU in percent of predicting it everywhere."""
    occurring = [record for record in per_class if record["pixels"]]
    commonest = max(occurring, key=lambda record: record["pixels"])
    share = commonest["pixels"] / sum(record["pixels"] for record in occurring)
    return commonest["class"], 100 * share / len(occurring)


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.demo_summary", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    run: Path = parser.parse_args().run
    results = run / "results.json"
    if not results.is_file():
        raise UserError(results, "no such file", "name the folder of a run that has been scored")
    result = json.loads(results.read_text())
    numbers = (f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in result["metrics"].items())
    print("\n" + "  ".join(numbers), "at step", result["step"])
    if result["task"] == "semantic":
        name, baseline = commonest_class(result["per_class"])
        print(f'for comparison, "{name}" everywhere would give mIoU {baseline:.1f}')
    pictures = sorted(run.glob("pictures/step_*"))
    print(f"results     {results}")
    if pictures:
        print(f"pictures    {pictures[-1]}")
    print(f"curves      .venv/bin/tensorboard --logdir {run}")


if __name__ == "__main__":
    run_command(main)
