"""Predict for any images: `python -m tools.predict --checkpoint PATH IMAGE_OR_FOLDER... --out DIR [KEY=VALUE ...]`.

Writes prediction files to DIR, in the format that `tools.score` reads, and pictures of them to DIR/pictures. Images
that cannot be read are left out and named at the end; the command then ends with an error.
"""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets.base import PredictionFiles, Sample
from datasets.files.images import IMAGE_SUFFIXES, read_image
from datasets.loading import single_batch
from errors import ArgumentParser, UserError, run_command
from pictures import draw
from runtime.distributed import start_processes
from runtime.memory import EVALUATION, keep_freed_memory
from workflow.results import check_outside_data
from workflow.trained import find_checkpoint, load_trained


def find_images(paths: list[Path]) -> list[Path]:
    """The image files at `paths`, which are files or folders. Raises UserError if a path or folder has no image, or if
    two images have the same stem.
    """
    images: list[Path] = []
    for path in paths:
        if not os.path.exists(path):  # Path.exists would raise PermissionError in a folder that may not be entered
            raise UserError(path, "no such image or folder", "name existing ones")
        images += _images_in(path) if path.is_dir() else [path]
    stems: dict[str, Path] = {}
    for image in images:
        if image.stem in stems:
            what = f"would overwrite the prediction for {stems[image.stem]}"
            raise UserError(image, what, "predict them in separate calls")
        stems[image.stem] = image
    return images


def check_ids(images: list[Path], files: PredictionFiles) -> None:
    """Raise UserError if two images would have one id in the prediction files, as 1.jpg and 01.jpg in COCO's."""
    found: dict[int | str, Path] = {}
    for image in images:
        stored = files.stored_id(image.stem)
        if stored in found:
            what = f"has the id {stored} in the predictions, as {found[stored]} has"
            raise UserError(image, what, "rename one of them, or predict them in separate calls")
        found[stored] = image


def _images_in(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name, without hidden files. Raises UserError if there are none."""
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


def _possible_outputs(out: Path, stem: str) -> set[Path]:
    """All PNG files that the prediction for an image may write, for any task."""
    numbered = {f"{int(stem):012d}"} if stem.isdecimal() else set()  # COCO panoptic files have 12 digits
    folders = (out, out / "pictures", out / "predictions")
    return {folder / f"{name}.png" for folder in folders for name in {stem, *numbered}}


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="tools.predict", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="also KEY=VALUE for the configuration")
    arguments = parser.parse_intermixed_args()
    overrides = [item for item in arguments.images if "=" in item and not os.path.exists(item)]
    images = find_images([Path(item) for item in arguments.images if item not in overrides])

    inputs = {os.path.realpath(path) for path in images}  # Path.resolve would raise for circular links
    outputs = {path for image in images for path in _possible_outputs(arguments.out, image.stem)}
    overwritten = inputs & {os.path.realpath(path) for path in outputs}
    if overwritten:
        raise UserError(f"--out {arguments.out}", f"would overwrite {min(overwritten)}", "choose another folder")

    experiment, model, _ = load_trained(find_checkpoint(arguments.checkpoint), None, overrides)
    check_outside_data(arguments.out, "--out", experiment)
    files = experiment.data.prediction_files(arguments.out)
    check_ids(images, files)
    if experiment.system.reuse_memory:
        keep_freed_memory(EVALUATION)
    device = start_processes(experiment.system.device).device
    model.to(device).eval()
    pictures = arguments.out / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(arguments.out, f"cannot be written ({error})", "choose another --out") from None
    errors: list[UserError] = []
    for path in tqdm(images, unit="image", disable=None):
        try:
            image = read_image(path, experiment.data.image_range)
        except UserError as error:  # go on with the other images
            errors.append(error)
            continue
        sample = Sample(path.stem, image.shape[:2], image)
        batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor).to(device)
        with torch.inference_mode(), experiment.arithmetic(device):
            prediction = model.predict(batch)[0].to("cpu")
        files.write(prediction, batch.targets[0])
        _save(draw(image, prediction, None, experiment.data.info), pictures / f"{path.stem}.png")
    if len(errors) < len(images):  # else keep earlier predictions
        files.finish()
        print(f"{len(images) - len(errors)} predictions in {arguments.out}, pictures in {pictures}")
    for unreadable in errors[1:]:
        print(f"left out: {unreadable}")
    if errors:
        raise errors[0]


def _save(picture: np.ndarray, path: Path) -> None:
    try:
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "free space or choose another --out") from None


if __name__ == "__main__":
    run_command(main)
