"""Predict for any images: `python -m tools.predict --checkpoint PATH IMAGE_OR_FOLDER... --out DIR [KEY=VALUE ...]`.

DIR gets the predictions in the form that `tools.score` reads, and pictures of them for people in DIR/pictures.
"""

from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from datasets.ade20k import IMAGE_SUFFIXES
from datasets.base import Sample
from datasets.images import read_image
from datasets.loading import single_batch
from errors import ArgumentParser, UserError, run_command
from eval import find_checkpoint, load_trained
from pictures import draw
from runtime.distributed import start_processes
from runtime.memory import keep_freed_memory


def find_images(paths: list[Path]) -> list[Path]:
    """The image files that the arguments mean. Raises UserError if there is none, or if two have the same stem."""
    images: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(path, "no such image or folder", "name existing ones")
        found = (
            sorted(item for item in path.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES)
            if path.is_dir()
            else [path]
        )
        if not found:
            raise UserError(path, "holds no image", f"name a folder with {', '.join(sorted(IMAGE_SUFFIXES))} files")
        images += found
    stems: dict[str, Path] = {}
    for image in images:
        if image.stem in stems:
            raise UserError(image, f"would overwrite the prediction for {stems[image.stem]}", "predict them apart")
        stems[image.stem] = image
    return images


def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.predict", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="also KEY=VALUE for the configuration")
    arguments = parser.parse_intermixed_args()
    overrides = [item for item in arguments.images if "=" in item and not Path(item).exists()]
    images = find_images([Path(item) for item in arguments.images if item not in overrides])

    written = {folder / f"{path.stem}.png" for path in images for folder in (arguments.out, arguments.out / "pictures")}
    overwritten = {path.resolve() for path in images} & {path.resolve() for path in written}
    if overwritten:
        raise UserError(f"--out {arguments.out}", f"would overwrite {min(overwritten)}", "choose another folder")

    experiment, model, _ = load_trained(find_checkpoint(arguments.checkpoint), None, overrides)
    if experiment.system.reuse_memory:
        keep_freed_memory()
    device = start_processes(experiment.system.device).device
    model.to(device).eval()
    files = experiment.data.prediction_files(arguments.out)
    pictures = arguments.out / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(arguments.out, f"cannot be written ({error})", "choose another --out") from None
    for path in tqdm(images, unit="image", disable=None):
        image = read_image(path)
        sample = Sample(path.stem, image.shape[:2], image)
        batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor).to(device)
        with torch.inference_mode(), experiment.autocast(device):
            prediction = model.predict(batch)[0].to("cpu")
        files.write(prediction, batch.targets[0])
        picture = draw(image, prediction, None, experiment.data.info)
        cv2.imwrite(str(pictures / f"{path.stem}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    files.finish()
    print(f"{len(images)} predictions in {arguments.out}, pictures in {pictures}")


if __name__ == "__main__":
    run_command(main)
