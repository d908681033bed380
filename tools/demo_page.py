"""One page of several runs on the same scenes: `python -m tools.demo_page RUN ... [--out runs/demo/index.html]`.

The last step of `make demo-all`: the scores of each task, and what each model sees in the same validation images.
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from errors import ArgumentParser, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.demo_page", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a trained run")
    page = "default: %(default)s"
    parser.add_argument("--out", type=Path, default=Path("runs/demo/index.html"), metavar="PAGE.html", help=page)
    parser.add_argument("--images", type=int, default=4, help="validation images (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from experiment import make_experiment
from pictures import draw_prediction
from pictures.canvas import WRITING_SIDE, enlarge
from predictor import Predictor
from tools.pages.html import card, end, number, start, tile, write_page
from tools.report.runs import Run, read_runs
from workflow.results import check_writable

TITLES = {
    "semantic": "semantic segmentation",
    "detection": "boxes",
    "instance": "boxes and masks",
    "panoptic": "panoptic segmentation",
    "depth": "depth",
}
# What a person looks at first; results.json has the rest.
NUMBERS = {
    "semantic": {"mIoU": "mIoU", "bIoU": "boundary IoU"},
    "detection": {"bbox/AP50": "box AP50", "bbox/AP": "box AP"},
    "instance": {"segm/AP50": "mask AP50", "bbox/AP50": "box AP50"},
    "panoptic": {"PQ": "PQ", "PQ_th": "PQ of things"},
    "depth": {"delta1": "delta1", "rms": "rms in metres"},
}

COLUMNS = "grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr))"


def page(runs: list[Run], images: int) -> Iterator[str]:
    """The page in parts. images: how many validation images it shows."""
    yield start("The demos of DenseUp")
    yield "<header><h1>Five tasks, one training loop</h1></header>" if len(runs) == 5 else "<h1>Runs</h1>"
    yield f'<div class="tiles">{"".join(map(_tile, runs))}</div>'
    predictors = [Predictor(run.folder) for run in runs]
    validation = [make_experiment(run.config, str(run.folder / "config.yaml")).data.build("val") for run in runs]
    count = 0
    for place in range(images):
        yield f'<h2>Scene {place + 1}</h2><div class="sheet">'
        for run, predictor, dataset in zip(runs, predictors, validation, strict=True):
            sample = dataset.load(place * len(dataset) // images)
            if run is runs[0]:
                yield card(enlarge(sample.image, WRITING_SIDE), count, "image", sample.image_id)
                count += 1
            found = predictor(sample.image)
            picture = draw_prediction(sample.image, found.raw, found.info)
            yield card(picture, count, TITLES[found.task], run.name)
            count += 1
        yield "</div>"
    yield end("tools.demo_page", "The scenes are rendered; no model has seen these in training.")


def _tile(run: Run) -> str:
    task, metrics = run.result["task"], run.result["metrics"]
    first, *others = (f"{text} {number(metrics[name], '{:.3g}')}" for name, text in NUMBERS[task].items())
    model = run.config["model"]
    upsampler = model["upsampler"]
    name = upsampler if isinstance(upsampler, str) else upsampler["name"]
    lines = [*others, f"{model['name']} with {name}", f"{run.result['step']} steps"]
    return tile(TITLES[task], first, lines)


def main() -> None:
    """Run the command."""
    arguments = read_arguments()
    runs = read_runs(arguments.runs)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(arguments.out)
    write_page(arguments.out, page(runs, arguments.images))
    print(f"page: {arguments.out}")


if __name__ == "__main__":
    run_command(main)
