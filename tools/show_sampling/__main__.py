"""Show where a trained upsampler samples: `python -m tools.show_sampling --checkpoint PATH IMAGE --out FILE`.

For DySample, as in Figs. 3, 7 and 9 of its paper: the sampling points of a region, each with an arrow from its initial
position, the feature map before and after upsampling, and the histogram of all offsets. For upsamplers that sum several
points: those of four pixels, with their weights. For kernel-based ones: the kernels of four pixels. For the others: the
feature maps only. FILE is a picture; the numbers of all stages are
written beside it as JSON. A stage is one call of an upsampler.
"""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.show_sampling", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="or a run folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture to write")
    parser.add_argument(
        "--stage",
        type=int,
        help="in the order of the forward pass, from 0; default: the last with sampling points, else with parameters",
    )
    parser.add_argument("--region", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="in pixels of the image")
    parser.add_argument("--tensorboard", action="store_true", help="also log to the TensorBoard of the run")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the photo in which to show where upsamplers sample")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="settings to change, for example evaluation.batch_size=1",
    )
    return parser.parse_intermixed_args()


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from datasets.base import Sample
from datasets.files.images import read_image
from datasets.loading import single_batch
from runtime.distributed import start_processes
from runtime.memory import keep_freed_memory
from tools.show_sampling.panels import check_region, draw_sampling_sheet, draw_stage_panels, make_view
from tools.show_sampling.stages import Stage, choose_stage, run_stages, stage_record, upsamplers_without_stage
from workflow.results import check_writable, write_result
from workflow.trained import find_checkpoint, load_trained

FORMATS = (".png", ".jpg", ".jpeg")


def log_to_board(folder: Path, step: int, name: str, chosen: int, picture: np.ndarray, stages: list[Stage]) -> None:
    """Log the picture of the chosen stage and the offset histograms of all stages to TensorBoard."""
    with SummaryWriter(str(folder)) as board:
        board.add_image(f"sampling/{name}/stage_{chosen}", picture, step, dataformats="HWC")
        for number, stage in enumerate(stages):
            offsets = stage.offsets()
            if offsets is not None:
                board.add_histogram(f"offsets/{name}/stage_{number}", offsets, step)


def describe(record: dict[str, Any]) -> str:
    """One line of text about a stage."""
    line = f"stage {record['stage']}  {record['name']}  {record['upsampler']} of {record['input']}"
    offsets = record["offsets"]
    if offsets is None:
        return line
    return (
        f"{line}: offsets {offsets['mean_abs']:.4f} in the mean, {offsets['max_abs']:.3f} at most,"
        f" {offsets['share_beyond']:.1%} of points beyond {offsets['margin']:.3g}"
    )


def _json_beside(out: Path, image: Path) -> Path:
    """The path of the JSON file beside the picture `out`.

    Raises UserError if `out` has no suffix of a picture or is the input image, if another program's JSON file is there,
    or if the picture or the JSON file cannot be written.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}", "is not the name of a picture", f"end it with {' or '.join(FORMATS)}")
    if out.resolve() == image.resolve():
        raise UserError(f"--out {out}", "would overwrite the image", "choose another file")
    path = out.with_suffix(".json")
    if path.exists() and not _is_ours(path):
        what = f"would overwrite {path}, which tools.show_sampling did not write"
        raise UserError(f"--out {out}", what, "choose another name")
    check_writable(out)
    check_writable(path)
    return path


def _is_ours(path: Path) -> bool:
    """Whether a JSON file was written by this command."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"shown", "stages"} <= content.keys()


def _board_folder(checkpoint: Path) -> Path:
    folder = checkpoint.resolve().parent.parent
    if not (folder / "config.yaml").exists():
        what = f"{checkpoint} is not in a run folder"
        raise UserError("--tensorboard", what, "name a run folder, or a checkpoint in it")
    return folder


@torch.inference_mode()
def main() -> None:
    """Run the command."""
    arguments = read_arguments()

    if not os.path.exists(arguments.image):
        raise UserError(arguments.image, "no such image", "name an existing one")
    json_path = _json_beside(arguments.out, arguments.image)
    checkpoint = find_checkpoint(arguments.checkpoint)
    board = _board_folder(checkpoint) if arguments.tensorboard else None
    experiment, model, step = load_trained(checkpoint, None, arguments.overrides)
    image = read_image(arguments.image, experiment.data.image_range)
    if arguments.region:
        check_region(arguments.region, image)
    if experiment.system.reuse_memory:
        keep_freed_memory()
    device = start_processes(experiment.system.device).device
    sample = Sample(arguments.image.stem, image.shape[:2], image)
    batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor).to(device)

    with experiment.arithmetic(device):  # compute positions and kernels in the precision of the model
        stages = run_stages(model.to(device).eval(), batch)
        chosen = choose_stage(stages, arguments.stage, checkpoint)
        view = make_view(stages[chosen], batch, image, tuple(arguments.region) if arguments.region else None)
        records = [stage_record(number, stage) for number, stage in enumerate(stages)]
        shown, rows = draw_stage_panels(stages[chosen], records[chosen]["offsets"], view)
        picture = draw_sampling_sheet(stages[chosen], rows, view)
        if board is not None:
            log_to_board(board, step, arguments.image.stem, chosen, picture, stages)
    Image.fromarray(picture).save(arguments.out)
    left_out = upsamplers_without_stage(model, stages)
    result = {"checkpoint": str(checkpoint), "step": step, "image": str(arguments.image), "region": list(view.region)}
    write_result(json_path, {**result, "stage": chosen, "shown": shown, "stages": records, "without_stage": left_out})
    print("\n".join(describe(record) for record in records))
    for name in left_out:
        print(f"no stage: {name}, which upsamples single regions, not the image")
    print(f"{shown} of stage {chosen} in {arguments.out}, numbers of all in {json_path}")


if __name__ == "__main__":
    run_command(main)
