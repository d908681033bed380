"""Make the pictures at the top of the README: `python -m tools.showcase [--images docs/images]`, after `make demo-all`.

It writes larger scenes, trains the demos' models further on them (configs/showcase), and draws all five tasks on one
scene: hero.webp. It trains the demo's SegFormer once more and draws how DySample learns where to sample:
learning.webp. Stopped and started again, it goes on where it was.
"""

import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

from errors import ArgumentParser, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.showcase", description=__doc__)
    default = "default: %(default)s"
    parser.add_argument("--images", type=Path, default=Path("docs/images"), metavar="FOLDER", help=default)
    parser.add_argument("--scene", type=int, default=SCENE, help=f"number of the validation scene ({default})")
    parser.add_argument("--region", type=int, nargs=4, default=REGION, metavar=("X", "Y", "W", "H"), help=default)
    return parser.parse_args()


TASKS = ("seg", "inst", "pan", "depth")
SCENES = ["--root", "data/showcase", "--difficulty", "easy", "--height", "288", "--width", "384"]
SCENES += ["--train", "150", "--val", "24", "--seed", "1"]
SCENE, REGION = 0, (100, 100, 96, 72)  # pixels of the scene

if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from experiment import load_experiment
from tools.showcase.learning import animate, learn
from tools.showcase.panels import draw_hero
from workflow.results import check_writable


def call(*words: str) -> None:
    """Run another command of the repository to its end; end with its code if it fails."""
    code = subprocess.call([sys.executable, *words])
    if code:
        sys.exit(code)


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    hero, learning = arguments.images / "hero.webp", arguments.images / "learning.webp"
    check_writable(hero)
    start = time.perf_counter()
    call("-m", "tools.make_scenes", *SCENES)
    for task in TASKS:
        call("train.py", "--cfg", f"configs/showcase/{task}.yaml")
    data = load_experiment(Path("configs/showcase/seg.yaml")).data.build("val")
    image, region = data.load(arguments.scene).image, tuple(arguments.region)
    picture = draw_hero(image, {task: Path(f"runs/showcase_{task}") for task in TASKS}, region)
    picture.save(hero, quality=85, method=6)
    animate(learn(Path("configs/demo/seg.yaml"), image, region), learning)
    print(f"pictures: {hero}, {learning} ({time.perf_counter() - start:.0f} s since this start)")


if __name__ == "__main__":
    run_command(main)
