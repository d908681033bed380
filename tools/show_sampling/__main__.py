"""Where a trained upsampler samples: `python -m tools.show_sampling --checkpoint PATH IMAGE --out FILE`.

For DySample, as in Figs. 3, 7 and 9 of its paper: the points of a region with arrows from their starts, the map before
and after, and the histogram of all offsets. For upsamplers that sum windows, the kernels of four points; for the others
the maps alone. FILE is a picture; the numbers of all stages are written beside it as JSON.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from datasets.base import Sample
from datasets.files.images import read_image
from datasets.loading import single_batch
from errors import ArgumentParser, UserError, run_command
from runtime.distributed import start_processes
from runtime.memory import keep_freed_memory
from tools.show_sampling.panels import check_region, sampling_sheet, stage_panels, view_of
from tools.show_sampling.stages import Stage, choose, run_stages, stage_record, without_stage
from workflow.results import check_writable, write_result
from workflow.trained import find_checkpoint, load_trained

FORMATS = (".png", ".jpg", ".jpeg")


def log_to_board(folder: Path, step: int, name: str, chosen: int, picture: np.ndarray, stages: list[Stage]) -> None:
    """The picture of the chosen stage and the histograms of all stages' offsets, on a TensorBoard."""
    with SummaryWriter(str(folder)) as board:
        board.add_image(f"sampling/{name}/stage_{chosen}", picture, step, dataformats="HWC")
        for number, stage in enumerate(stages):
            offsets = stage.offsets()
            if offsets is not None:
                board.add_histogram(f"offsets/{name}/stage_{number}", offsets, step)


def describe(record: dict[str, Any]) -> str:
    """One line for a stage."""
    line = f"stage {record['stage']}  {record['name']}  {record['upsampler']} of {record['input']}"
    found = record["offsets"]
    if found is None:
        return line
    return (
        f"{line}: offsets {found['mean_abs']:.4f} in the mean, {found['max_abs']:.3f} at most,"
        f" {found['share_beyond']:.1%} of points beyond {found['margin']:.3g}"
    )


def _json_beside(out: Path, image: Path) -> Path:
    """The path of the JSON beside the picture.

    Raises UserError if `out` is no picture's name or the image's, if a JSON that is not of this command lies there, or
    if one of both cannot be written.
    """
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}", "is no name of a picture", f"end it with {' or '.join(FORMATS)}")
    if out.resolve() == image.resolve():
        raise UserError(f"--out {out}", "would overwrite the image", "choose another file")
    path = out.with_suffix(".json")
    if path.exists() and not _is_ours(path):
        what = f"would write its numbers over {path}, which tools.show_sampling did not write"
        raise UserError(f"--out {out}", what, "choose another name")
    check_writable(out)
    check_writable(path)
    return path


def _is_ours(path: Path) -> bool:
    """Whether a JSON is a record of this command."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"shown", "stages"} <= found.keys()


def _board_folder(checkpoint: Path) -> Path:
    folder = checkpoint.resolve().parent.parent / "tensorboard"
    if not folder.is_dir():
        what = f"{checkpoint} lies in no run folder with a tensorboard"
        raise UserError("--tensorboard", what, "name a run folder, or a checkpoint in it")
    return folder


@torch.inference_mode()
def main() -> None:
    """The command."""
    parser = ArgumentParser(prog="tools.show_sampling", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="or a run folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--stage",
        type=int,
        help="in the order of running, from 0; default: the last with sampling points, else the last that learns",
    )
    parser.add_argument("--region", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="in pixels of the image")
    parser.add_argument("--tensorboard", action="store_true", help="also log to the TensorBoard of the run")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()

    if not os.path.exists(arguments.image):
        raise UserError(arguments.image, "no such image", "name an existing one")
    image = read_image(arguments.image)
    if arguments.region:
        check_region(arguments.region, image)
    json_path = _json_beside(arguments.out, arguments.image)
    checkpoint = find_checkpoint(arguments.checkpoint)
    board = _board_folder(checkpoint) if arguments.tensorboard else None
    experiment, model, step = load_trained(checkpoint, None, arguments.overrides)
    if experiment.system.reuse_memory:
        keep_freed_memory()
    device = start_processes(experiment.system.device).device
    sample = Sample(arguments.image.stem, image.shape[:2], image)
    batch = single_batch(sample, experiment.data.test_transforms, model.size_divisor).to(device)

    with experiment.autocast(device):  # positions and kernels are then computed as the model computes them
        stages = run_stages(model.to(device).eval(), batch)
        chosen = choose(stages, arguments.stage, checkpoint)
        view = view_of(stages[chosen], batch, image, tuple(arguments.region) if arguments.region else None)
        records = [stage_record(number, stage) for number, stage in enumerate(stages)]
        shown, rows = stage_panels(stages[chosen], records[chosen]["offsets"], view)
        picture = sampling_sheet(stages[chosen], rows, view)
        if board is not None:
            log_to_board(board, step, arguments.image.stem, chosen, picture, stages)
    Image.fromarray(picture).save(arguments.out)
    left_out = without_stage(model, stages)
    result = {"checkpoint": str(checkpoint), "step": step, "image": str(arguments.image), "region": list(view.region)}
    write_result(json_path, {**result, "stage": chosen, "shown": shown, "stages": records, "without_stage": left_out})
    print("\n".join(describe(record) for record in records))
    for name in left_out:
        print(f"no stage: {name}, which enlarges single regions, not the image")
    print(f"{shown} of stage {chosen} in {arguments.out}, numbers of all in {json_path}")


if __name__ == "__main__":
    run_command(main)
