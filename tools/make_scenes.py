"""Write the embedded scenes: `python -m tools.make_scenes [--root data/scenes] [--train 300] [--val 60] ...`."""

import time
from argparse import Namespace
from pathlib import Path

from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(
        "tools.make_scenes", "Render rooms and write them in the layouts of ADE20K, COCO 2017 and NYU."
    )
    parser.add_argument("--root", type=Path, default=Path("data/scenes"), help="folder to write (default: %(default)s)")
    parser.add_argument("--train", type=int, default=300, help="training scenes (default: %(default)s)")
    parser.add_argument("--val", type=int, default=60, help="validation scenes (default: %(default)s)")
    parser.add_argument("--height", type=int, default=120, help="pixels (default: %(default)s)")
    parser.add_argument("--width", type=int, default=160, help="pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other scenes (default: %(default)s)")
    difficulty = "of the scenes: fewer, larger and plainer objects, or those of the mini-paper (default: %(default)s)"
    parser.add_argument("--difficulty", choices=("easy", "hard"), default="hard", help=difficulty)
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from datasets.scenes import SCENE_CLASSES, write_scenes


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    root, size = arguments.root, (arguments.height, arguments.width)
    start = time.perf_counter()
    try:
        write_scenes(
            root, arguments.train, arguments.val, size, arguments.seed, arguments.workers, arguments.difficulty
        )
    except ValueError as error:
        raise UserError("command line", str(error), "see python -m tools.make_scenes --help") from error
    except OSError as error:
        raise UserError(root, f"cannot be written ({error})", "choose another folder with --root") from error
    print(
        f"{arguments.train} + {arguments.val} scenes of {size[0]} x {size[1]} pixels, {arguments.difficulty}, "
        f"{len(SCENE_CLASSES)} classes, in {root} ({time.perf_counter() - start:.1f} s)"
    )


if __name__ == "__main__":
    run_command(main)
