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
from datasets.images import read_image
from datasets.loading import single_batch
from errors import ArgumentParser, UserError, run_command
from eval import check_writable, find_checkpoint, load_trained, write_result
from pictures.sampling import (
    Panels,
    Region,
    View,
    arrow_panels,
    histogram_panel,
    kernel_panels,
    output_centres,
    sheet,
)
from runtime.distributed import start_processes
from runtime.memory import keep_freed_memory
from structures import Batch
from tools.sampling_stages import Stage, choose, run_stages, stage_record, strides, without_stage

REGION = 8  # low-resolution pixels: the side of the region that is shown by default
LONGEST = 8  # sides: the most by which one side of a region exceeds the other, so that its panels can be read
FORMATS = (".png", ".jpg", ".jpeg")


def stage_panels(stage: Stage, statistics: dict[str, Any] | None, view: View) -> tuple[str, list[Panels]]:
    """What can be shown of a stage, in words, and the rows of its panels. statistics: of its offsets."""
    starts, offsets, points = stage.starts(), stage.offsets(), stage.sampling_points()
    if starts is None or offsets is None or points is None or statistics is None:
        found = [stage.kernel(*place) for place in _four_points(stage, view)]
        kernels = [kernel for kernel in found if kernel is not None]
        if kernels:
            return "kernels", [kernel_panels(view, kernels)]
        return f"maps only ({type(stage.upsampler).__name__} has neither sampling points nor kernels)", []
    counts, edges = (np.array(statistics["histogram"][key]) for key in ("counts", "edges"))
    share = f"{statistics['share_beyond']:.1%} of points beyond {stage.margin:.3g}"
    title = f"offsets of the whole map along both axes, in low-resolution pixels; {share}"
    bars = {title: histogram_panel(counts, edges, stage.margin)}
    beyond = (np.abs(offsets) > stage.margin).any(-1)
    return "sampling points", [arrow_panels(view, starts, points, beyond, stage.margin, stage.upsampler.scale), bars]


def sampling_sheet(stage: Stage, rows: list[Panels], view: View) -> np.ndarray:
    """The whole picture, RGB uint8: the maps of a stage and rows of panels."""
    scale, (height, width) = stage.upsampler.scale, stage.extent
    before = stage.x[0, :, :height, :width].float().cpu().numpy()
    after = stage.output[0, :, : scale * height, : scale * width].float().cpu().numpy()
    return sheet(view, before, after, scale, rows)


def _four_points(stage: Stage, view: View) -> list[tuple[int, int]]:
    """(column, row) of the output's pixels at 2/8 and 5/8 of the region: by default windows of 5 lie within it."""
    last = np.array(stage.output.shape[:1:-1]) - 1
    points = []
    for share in ((0.25, 0.25), (0.625, 0.25), (0.25, 0.625), (0.625, 0.625)):
        place = view.corners[0] + np.array(share) * view.region[2:]
        column, row = np.minimum(place / view.stride * stage.upsampler.scale, last).astype(int).tolist()
        points.append((column, row))
    return points


def view_of(stage: Stage, batch: Batch, image: np.ndarray, region: Region | None) -> View:
    """The image [H, W, 3], which the batch holds resized and padded, on the map of a stage.

    region: by default REGION x REGION low-res pixels in the middle, or what the image has of them.
    Raises UserError if no pixel of the stage's output has its centre in the region.
    """
    size = np.array(image.shape[1::-1])
    stride = strides(batch, stage.x)[::-1] * size / np.array(batch.sizes[0][::-1])
    if region is None:
        first = np.rint(np.floor((size / stride - REGION) / 2).clip(0) * stride).astype(int)
        sides = np.minimum(np.ceil(REGION * stride).astype(int), size - first)
        region = (int(first[0]), int(first[1]), int(sides[0]), int(sides[1]))
    view = View(image, stride, region)
    scale = stage.upsampler.scale
    if not view.holds(output_centres(stage.output.shape[2], stage.output.shape[3], scale)).any():
        apart = float((stride / scale).max())
        what = f"holds no point of the stage; they lie {apart:.3g} pixels apart"
        raise UserError(f"--region {' '.join(map(str, region))}", what, "choose a larger one")
    return view


def check_region(region: Region, image: np.ndarray) -> None:
    """Raise UserError unless the region lies in the image and is no narrow strip."""
    left, top, width, height = region
    rows, columns = image.shape[:2]
    option = f"--region {left} {top} {width} {height}"
    if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
        what = f"does not lie in the image of {columns} x {rows} pixels"
        raise UserError(option, what, "give left, top, width and height inside it")
    if max(width, height) > LONGEST * min(width, height):
        raise UserError(option, "is a strip too narrow to draw", f"make no side more than {LONGEST} times the other")


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
