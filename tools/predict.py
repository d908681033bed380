"""Predict for any images: `python -m tools.predict --model MODEL IMAGE ... [--out DIR] [KEY=VALUE ...]`.

MODEL: a checkpoint, a run folder, a file of `tools.export_onnx --full`, or the name of a published model (python -m
tools.weights lists them). --checkpoint and --onnx are other names for --model. IMAGE: an image, a folder, a pattern
such as 'photos/*.jpg', or a video, whose frames are predicted. Writes prediction files to DIR, in the format that
`tools.score` reads, and pictures of them to DIR/pictures. Images that cannot be read are left out and named at the end;
the command then ends with an error.
"""

import glob
import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from errors import ArgumentParser, UserError, read_early, run_command
from workflow.arguments import add_model


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.predict", description=__doc__)
    add_model(parser, "--model", "--checkpoint", "--onnx", metavar="MODEL")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="default: %(default)s")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="also KEY=VALUE for the configuration")
    return parser.parse_intermixed_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets.base import ImageRange, PredictionFiles, Sample
from datasets.files.images import IMAGE_SUFFIXES, read_image
from datasets.loading import single_batch
from pictures import draw
from pictures.shrink import Shrinker
from runtime.distributed import start_processes
from workflow.results import check_outside_data
from workflow.trained import find_checkpoint, keep_memory, load_predicting

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})


def find_images(paths: list[Path]) -> list[Path]:
    """The image and video files at `paths`, which are files, folders or patterns.

    Raises UserError if a path or folder has no image, or if two files have the same stem.
    """
    images: list[Path] = []
    for path in [match for pattern in paths for match in _matches(pattern)]:
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


def _matches(path: Path) -> list[Path]:
    """The paths that match a pattern; the path itself if it exists or is not a pattern."""
    if os.path.exists(path) or not glob.has_magic(str(path)):
        return [path]
    return sorted(map(Path, glob.glob(str(path), recursive=True))) or [path]


def pictures_of(path: Path, image_range: ImageRange | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a name and the pixels, RGB uint8 [H, W, 3], of an image, or of every frame of a video.

    Frames are called STEM_000001 and so on. Raises UserError if the file cannot be read.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        yield path.stem, read_image(path, image_range)
        return
    video = cv2.VideoCapture(str(path))
    number = 0
    while True:
        found, frame = video.read()
        if not found:
            break
        number += 1
        yield f"{path.stem}_{number:06d}", cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    video.release()
    if number == 0:
        raise UserError(path, "has no frame that OpenCV can read", "convert it, for example to MP4 with H.264")


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
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    images = [image for image in images if image.suffix.lower() in suffixes and not image.is_dir()]
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
    arguments = read_arguments()
    overrides = [item for item in arguments.images if "=" in item and not os.path.exists(item)]
    images = find_images([Path(item) for item in arguments.images if item not in overrides])

    inputs = {os.path.realpath(path) for path in images}  # Path.resolve would raise for circular links
    outputs = {path for image in images for path in _possible_outputs(arguments.out, image.stem)}
    overwritten = inputs & {os.path.realpath(path) for path in outputs}
    if overwritten:
        raise UserError(f"--out {arguments.out}", f"would overwrite {min(overwritten)}", "choose another folder")

    experiment, model, _ = load_predicting(find_checkpoint(arguments.checkpoint), None, overrides)
    check_outside_data(arguments.out, "--out", experiment)
    files = experiment.data.prediction_files(arguments.out)
    check_ids(images, files)
    keep_memory(experiment)
    device = start_processes(experiment.system.device).device
    inference = experiment.inference(model.to(device).eval())
    pictures = arguments.out / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(arguments.out, f"cannot be written ({error})", "choose another --out") from None
    errors: list[UserError] = []
    count = 0
    for path in tqdm(images, unit="file", disable=None):
        found = pictures_of(path, experiment.data.image_range)
        while (picture := _next(found, errors)) is not None:
            name, image = picture
            sample = Sample(name, image.shape[:2], image)
            batch = single_batch(sample, inference.transforms, inference.size_divisor).to(device)
            shrinker = Shrinker(sample.size)
            shown = shrinker.image(image)
            del picture, image, sample  # a large image would wait in memory while it is predicted
            with torch.inference_mode(), experiment.arithmetic(device):
                prediction = inference.predict(batch)[0].to("cpu")
            target = batch.targets[0]
            del batch
            files.write(prediction, target)
            panels = draw(shown, shrinker.labels(prediction), None, experiment.data.info)
            _save(panels, pictures / f"{name}.png")
            count += 1
    if count:  # else keep earlier predictions
        files.finish()
        print(f"{count} predictions in {arguments.out}, pictures in {pictures}")
    for unreadable in errors[1:]:
        print(f"left out: {unreadable}")
    if errors:
        raise errors[0]


def _next(found: Iterator[tuple[str, np.ndarray]], errors: list[UserError]) -> tuple[str, np.ndarray] | None:
    """The next picture; None at the end of the file, or if it cannot be read, which is added to `errors`."""
    try:
        return next(found, None)
    except UserError as error:  # go on with the other images
        errors.append(error)
        return None


def _save(picture: np.ndarray, path: Path) -> None:
    try:
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "free space or choose another --out") from None


if __name__ == "__main__":
    run_command(main)
