"""Predict for any images: `python -m tools.predict --checkpoint PATH IMAGE_OR_FOLDER... --out DIR [KEY=VALUE ...]`.

DIR gets the predictions in the form that `tools.score` reads, and pictures of them for people in DIR/pictures. Images
that cannot be read are left out and named at the end, which is an error.
"""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets.base import Sample
from datasets.files.images import IMAGE_SUFFIXES, read_image
from datasets.loading import single_batch
from errors import ArgumentParser, UserError, run_command
from pictures import draw
from runtime.distributed import start_processes
from runtime.memory import EVALUATION, keep_freed_memory
from workflow.results import check_outside_data
from workflow.trained import find_checkpoint, load_trained


def find_images(paths: list[Path]) -> list[Path]:
    """The image files that the arguments mean. Raises UserError if there is none, or if two have the same stem."""
    images: list[Path] = []
    for path in paths:
        if not os.path.exists(path):  # unlike that of Path, no error where a folder may not be entered
            raise UserError(path, "no such image or folder", "name existing ones")
        images += _images_in(path) if path.is_dir() else [path]
    stems: dict[str, Path] = {}
    for image in images:
        if image.stem in stems:
            raise UserError(image, f"would overwrite the prediction for {stems[image.stem]}", "predict them apart")
        stems[image.stem] = image
    return images


def _images_in(folder: Path) -> list[Path]:
    """The image files of a folder by name, hidden ones excepted. Raises UserError if there is none."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(folder, f"cannot be listed ({error.strerror})", "check its permissions") from None
    images = [folder / name for name in names if not name.startswith(".")]
    images = [image for image in images if image.suffix.lower() in IMAGE_SUFFIXES and not image.is_dir()]
    if not images:
        do = f"name a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files"
        raise UserError(folder, "holds no image", do)
    return images


def _written(out: Path, stem: str) -> set[Path]:
    """The PNGs that the prediction for an image may write, whatever the task."""
    numbered = {f"{int(stem):012d}"} if stem.isdecimal() else set()  # as COCO's own panoptic files
    folders = (out, out / "pictures", out / "predictions")
    return {folder / f"{name}.png" for folder in folders for name in {stem, *numbered}}


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.predict", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="also KEY=VALUE for the configuration")
    arguments = parser.parse_intermixed_args()
    overrides = [item for item in arguments.images if "=" in item and not os.path.exists(item)]
    images = find_images([Path(item) for item in arguments.images if item not in overrides])

    inputs = {os.path.realpath(path) for path in images}  # unlike that of Path, no error where links run in a circle
    overwritten = inputs & {os.path.realpath(path) for image in images for path in _written(arguments.out, image.stem)}
    if overwritten:
        raise UserError(f"--out {arguments.out}", f"would overwrite {min(overwritten)}", "choose another folder")

    experiment, model, _ = load_trained(find_checkpoint(arguments.checkpoint), None, overrides)
    check_outside_data(arguments.out, "--out", experiment)
    if experiment.system.reuse_memory:
        keep_freed_memory(EVALUATION)
    device = start_processes(experiment.system.device).device
    model.to(device).eval()
    files = experiment.data.prediction_files(arguments.out)
    pictures = arguments.out / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(arguments.out, f"cannot be written ({error})", "choose another --out") from None
    problems: list[UserError] = []
    for path in tqdm(images, unit="image", disable=None):
        try:
            image = read_image(path)
        except UserError as error:  # the others need not suffer
            problems.append(error)
            continue
        sample = Sample(path.stem, image.shape[:2], image)
        batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor).to(device)
        with torch.inference_mode(), experiment.autocast(device):
            prediction = model.predict(batch)[0].to("cpu")
        files.write(prediction, batch.targets[0])
        _store(draw(image, prediction, None, experiment.data.info), pictures / f"{path.stem}.png")
    if len(problems) < len(images):  # else there is nothing to replace earlier predictions with
        files.finish()
        print(f"{len(images) - len(problems)} predictions in {arguments.out}, pictures in {pictures}")
    for problem in problems[1:]:
        print(f"left out: {problem}")
    if problems:
        raise problems[0]


def _store(picture: np.ndarray, path: Path) -> None:
    try:
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "make room or choose another --out") from None


if __name__ == "__main__":
    run_command(main)
