"""Write the embedded scenes: `python -m tools.make_scenes [--root data/scenes] [--train 300] [--val 60] ...`."""

import time
from pathlib import Path

from datasets.scenes import SCENE_CLASSES, write_scenes
from errors import ArgumentParser, UserError, run_command


def main() -> None:
    """Write the scenes and print a line about them."""
    parser = ArgumentParser(description="Render rooms and write them in the layouts of ADE20K, COCO 2017 and NYU.")
    parser.add_argument("--root", type=Path, default=Path("data/scenes"), help="folder to write (default: %(default)s)")
    parser.add_argument("--train", type=int, default=300, help="training scenes (default: %(default)s)")
    parser.add_argument("--val", type=int, default=60, help="validation scenes (default: %(default)s)")
    parser.add_argument("--height", type=int, default=120, help="pixels (default: %(default)s)")
    parser.add_argument("--width", type=int, default=160, help="pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other scenes (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    given = parser.parse_args()
    start = time.perf_counter()
    try:
        write_scenes(given.root, given.train, given.val, (given.height, given.width), given.seed, given.workers)
    except ValueError as problem:
        raise UserError("command line", str(problem), "see python -m tools.make_scenes --help") from problem
    except OSError as problem:
        raise UserError(given.root, f"cannot be written ({problem})", "choose another folder with --root") from problem
    print(
        f"{given.train} + {given.val} scenes of {given.height} x {given.width} pixels, {len(SCENE_CLASSES)} classes, "
        f"in {given.root} ({time.perf_counter() - start:.1f} s)"
    )


if __name__ == "__main__":
    run_command(main)
