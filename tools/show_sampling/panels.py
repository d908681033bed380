"""What is shown of a stage: the view of a region, and its panels."""

from typing import Any

import numpy as np

from errors import UserError
from structures import Batch
from tools.show_sampling.drawing import (
    Panels,
    Region,
    View,
    arrow_panels,
    histogram_panel,
    kernel_panels,
    output_centres,
    sheet,
)
from tools.show_sampling.stages import Stage, strides

REGION = 8  # low-resolution pixels: the side of the region that is shown by default
LONGEST = 8  # sides: the most by which one side of a region exceeds the other, so that its panels can be read


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
