"""The view of a region at a stage, and the panels that show the stage there."""

from typing import Any

import numpy as np

from errors import UserError
from structures import Batch
from tools.show_sampling.drawing import (
    Panels,
    Region,
    View,
    draw_arrow_panels,
    draw_histogram,
    draw_kernel_panels,
    draw_point_panels,
    draw_sheet,
    output_centres,
)
from tools.show_sampling.stages import Stage, strides

DEFAULT_SIDE = 8  # low-resolution pixels: side of the region that is shown by default
MAX_ASPECT = 8  # largest ratio of a region's sides, so that its panels can be read


def draw_stage_panels(stage: Stage, statistics: dict[str, Any] | None, view: View) -> tuple[str, list[Panels]]:
    """Draw rows of panels for a stage, and say in words what they show. statistics: of the offsets, if it has any."""
    rows, shown = [], []
    places = pick_points(stage, view)
    starts, offsets, points = stage.initial_points(), stage.offsets(), stage.sampling_points()
    if starts is not None and offsets is not None and points is not None and statistics is not None:
        chosen = [found for found in (stage.weighted_points(*place) for place in places) if found is not None]
        beyond = (np.abs(offsets) > stage.margin).any(-1)
        if chosen:
            rows.append(draw_point_panels(view, chosen))
        else:
            rows.append(draw_arrow_panels(view, starts, points, beyond, stage.margin, stage.upsampler.scale))
        rows.append(_histogram_panel(statistics, stage.margin))
        shown.append("sampling points")
    kernels = [kernel for kernel in (stage.kernel(*place) for place in places) if kernel is not None]
    if kernels:
        rows.append(draw_kernel_panels(view, kernels))
        shown.append("kernels")
    nothing = f"maps only ({type(stage.upsampler).__name__} has neither sampling points nor kernels)"
    return " and ".join(shown) or nothing, rows


def _histogram_panel(statistics: dict[str, Any], margin: float) -> Panels:
    counts, edges = (np.array(statistics["histogram"][key]) for key in ("counts", "edges"))
    share = f"{statistics['share_beyond']:.1%} of points beyond {margin:.3g}"
    title = f"offsets of the whole map along both axes, in low-resolution pixels; {share}"
    return {title: draw_histogram(counts, edges, margin)}


def draw_sampling_sheet(stage: Stage, rows: list[Panels], view: View) -> np.ndarray:
    """Draw the whole picture, RGB uint8: the feature maps of a stage and the rows of panels."""
    scale, (height, width) = stage.upsampler.scale, stage.extent
    before = stage.x[0, :, :height, :width].float().cpu().numpy()
    after = stage.output[0, :, : scale * height, : scale * width].float().cpu().numpy()
    return draw_sheet(view, before, after, scale, rows)


def pick_points(stage: Stage, view: View) -> list[tuple[int, int]]:
    """(column, row) of four output pixels at 2/8 and 5/8 of the region; there a window of 5 fits the default region."""
    last = np.array(stage.output.shape[:1:-1]) - 1
    points = []
    for share in ((0.25, 0.25), (0.625, 0.25), (0.25, 0.625), (0.625, 0.625)):
        place = view.corners[0] + np.array(share) * view.region[2:]
        column, row = np.minimum(place / view.stride * stage.upsampler.scale, last).astype(int).tolist()
        points.append((column, row))
    return points


def make_view(stage: Stage, batch: Batch, image: np.ndarray, region: Region | None) -> View:
    """Make the view of a region of the image [H, W, 3], which is resized and padded in the batch, at a stage.

    region: by default DEFAULT_SIDE x DEFAULT_SIDE low-res pixels in the middle, cut off at the image's border.
    Raises UserError if the region contains no centre of an output pixel of the stage.
    """
    size = np.array(image.shape[1::-1])
    stride = strides(batch, stage.x)[::-1] * size / np.array(batch.sizes[0][::-1])
    if region is None:
        first = np.rint(np.floor((size / stride - DEFAULT_SIDE) / 2).clip(0) * stride).astype(int)
        sides = np.minimum(np.ceil(DEFAULT_SIDE * stride).astype(int), size - first)
        region = (int(first[0]), int(first[1]), int(sides[0]), int(sides[1]))
    view = View(image, stride, region)
    scale = stage.upsampler.scale
    if not view.contains(output_centres(stage.output.shape[2], stage.output.shape[3], scale)).any():
        distance = float((stride / scale).max())
        what = f"holds no point of the stage; they lie {distance:.3g} pixels apart"
        raise UserError(f"--region {' '.join(map(str, region))}", what, "choose a larger one")
    return view


def check_region(region: Region, image: np.ndarray) -> None:
    """Raise UserError unless the region lies in the image and is wide and high enough to draw."""
    left, top, width, height = region
    rows, columns = image.shape[:2]
    option = f"--region {left} {top} {width} {height}"
    if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
        what = f"does not lie in the image of {columns} x {rows} pixels"
        raise UserError(option, what, "give left, top, width and height inside it")
    if max(width, height) > MAX_ASPECT * min(width, height):
        advice = f"make no side more than {MAX_ASPECT} times the other"
        raise UserError(option, "is a strip too narrow to draw", advice)
