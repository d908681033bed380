"""Make the pictures at the top of the README: `python -m tools.showcase [--demo]`, after `make demo-all`.

It writes larger scenes, trains the demos' models further on them (configs/showcase), and draws all five tasks on one
scene: hero.webp. It trains the demo's SegFormer once more and draws how DySample learns where to sample:
learning.webp. Stopped and started again, it goes on where it was. --demo: the models of the demos on a scene of theirs.
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
    parser.add_argument(
        "--demo",
        action="store_true",
        help="draw at once, with those models of the demos that are trained; seg at least",
    )
    parser.add_argument("--scene", type=int, help="number of the validation scene")
    parser.add_argument("--region", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="of the sampling points")
    return parser.parse_args()


TASKS = ("seg", "inst", "pan", "depth")
SCENES = ["--root", "data/showcase", "--difficulty", "easy", "--height", "288", "--width", "384"]
SCENES += ["--train", "150", "--val", "24", "--seed", "1"]
# A validation scene, and the region of its sampling points in pixels.
DEMO, SHOWCASE = (23, (80, 70, 64, 48)), (2, (190, 60, 96, 72))

LEARNING = ["steps=120", "batch_size=4"]  # of the run that is animated

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
    if not arguments.demo:
        call("-m", "tools.make_scenes", *SCENES)
        for task in TASKS:
            call("train.py", "--cfg", f"configs/showcase/{task}.yaml")
    stage, (scene, region) = ("demo", DEMO) if arguments.demo else ("showcase", SHOWCASE)
    scene, region = scene if arguments.scene is None else arguments.scene, tuple(arguments.region or region)
    data = load_experiment(Path(f"configs/{stage}/seg.yaml")).data.build("val")
    image = data.load(scene).image
    runs = {task: Path(f"runs/{stage}_{task}") for task in TASKS}
    trained = {task: run for task, run in runs.items() if run.exists()}
    draw_hero(image, trained, region).save(hero, quality=85, method=6)
    animate(learn(Path("configs/demo/seg.yaml"), image, region, LEARNING), learning)
    print(f"pictures: {hero}, {learning} ({time.perf_counter() - start:.0f} s since this start)")


if __name__ == "__main__":
    run_command(main)
