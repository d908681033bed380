"""The stages of a model for one image: the calls of its upsamplers, their inputs, outputs and sampling points."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from errors import UserError
from models.base import DenseModel
from structures import Batch, Size
from tools.show_sampling.drawing import Kernel, WeightedPoints
from upsamplers import Upsampler
from upsamplers.base import Points

BINS = 81  # of the histogram of offsets


@dataclass
class Stage:
    """One call of an upsampler: x [1, C, H, W], the guide as `upsample` takes it, and the output [1, C, h, w].

    extent: (rows, columns) of x that the image covers; the rest is padding.
    """

    name: str
    upsampler: Upsampler
    x: Tensor
    guide: Tensor | None
    output: Tensor
    extent: Size

    @property
    def margin(self) -> float:
        """How far points can move before the ranges of neighbours overlap (paper, section 3.2), in low-res pixels."""
        return 1 / (2 * self.upsampler.scale)

    @functools.cached_property
    def points(self) -> Points | None:
        """The n points of every output pixel; None for upsamplers without points."""
        return self.upsampler.weighted_points(self.x, self.guide)

    def offsets(self) -> np.ndarray | None:
        """Offsets of the output pixels in the image, [g, n·h, w, 2], (column, row) in low-res pixels."""
        return None if self.points is None else self._in_image(self.points.positions - self.points.starts)

    def initial_points(self) -> np.ndarray | None:
        """The sampling points without their offsets, in the same format."""
        return None if self.points is None else self._in_image(self.points.starts.expand_as(self.points.positions))

    def sampling_points(self) -> np.ndarray | None:
        """Where the map is read, in the same format; clamped to the outermost pixel centres if it is read there."""
        if self.points is None:
            return None
        points = self._in_image(self.points.positions)
        if self.points.padding == "zeros":
            return points
        return points.clip(0.5, np.array(self.x.shape[:1:-1], points.dtype) - 0.5)

    def weighted_points(self, column: int, row: int) -> WeightedPoints | None:
        """The points of an output pixel; None for upsamplers without points or with one point without weight."""
        if self.points is None or self.points.weights is None:
            return None
        positions, weights = self.points.positions[0, :, :, row, column], self.points.weights[0, :, :, row, column]
        weights = weights.expand(positions.shape[:2])
        arrays = (each.detach().float().cpu().numpy() for each in (positions, weights))
        return WeightedPoints(column, row, self.upsampler.scale, *arrays)

    def kernel(self, column: int, row: int) -> Kernel | None:
        """The kernel of an output pixel, averaged over groups; None for upsamplers without kernels."""
        kernels = self.upsampler.kernels(self.x, self.guide)
        if kernels is None:
            return None
        s, size = self.upsampler.scale, round(kernels.shape[2] ** 0.5)
        weights = kernels[0, :, :, row % s * s + column % s, row // s, column // s].float().mean(0)
        return Kernel(column, row, s, weights.reshape(size, size).detach().cpu().numpy())

    def _in_image(self, positions: Tensor) -> np.ndarray:
        height, width = (
            min(self.upsampler.scale * n, m) for n, m in zip(self.extent, self.output.shape[2:], strict=True)
        )
        return positions[0, :, :, :height, :width].flatten(1, 2).detach().cpu().numpy()


def run_stages(model: DenseModel, batch: Batch) -> list[Stage]:
    """Run the model on a batch of one image and record each call of an upsampler, in order."""
    stages: list[Stage] = []
    names = {module: name for name, module in model.named_modules() if isinstance(module, Upsampler)}

    def record(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> None:
        assert isinstance(module, Upsampler)
        x = inputs[0]
        rows, columns = np.ceil(np.array(batch.sizes[0]) / strides(batch, x)).astype(int).tolist()
        guide = module.prepare_guide(x, options.get("guide"))
        stages.append(Stage(names[module], module, x, guide, output, (rows, columns)))

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    model.outputs(batch.images)
    for handle in handles:
        handle.remove()
    return stages


def strides(batch: Batch, x: Tensor) -> np.ndarray:
    """(vertical, horizontal) pixels of the batch per pixel of a map x [1, C, H, W].

    Sizes of maps are rounded up where they do not divide; the strides are powers of two in any case.
    """
    return 2 ** np.rint(np.log2(np.array(batch.images.shape[2:]) / np.array(x.shape[2:]))).astype(int)


def upsamplers_without_stage(model: nn.Module, stages: list[Stage]) -> list[str]:
    """Names of the upsamplers that do not process the whole image, for example in a mask head, which gets regions."""
    shown = {stage.name for stage in stages}
    return [name for name, part in model.named_modules() if isinstance(part, Upsampler) and name not in shown]


def offset_statistics(offsets: np.ndarray, margin: float) -> dict[str, Any]:
    """Statistics of offsets [g, n·h, w, 2] in low-res pixels.

    A point counts as beyond the margin if its offset along either axis is larger than the margin.
    """
    beyond = (np.abs(offsets) > margin).any(-1)
    limit = max(2 * margin, float(np.abs(offsets).max()))
    counts, edges = np.histogram(offsets, BINS, (-limit, limit))
    return {
        "margin": margin,
        "share_beyond": float(beyond.mean()),
        "share_beyond_by_group": beyond.mean((1, 2)).tolist(),
        "mean_abs": float(np.abs(offsets).mean()),
        "std": float(offsets.std()),
        "max_abs": float(np.abs(offsets).max()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def stage_record(number: int, stage: Stage) -> dict[str, Any]:
    """The JSON record of a stage. Raises UserError if an offset is not finite."""
    offsets = stage.offsets()
    if offsets is not None and not np.isfinite(offsets).all():
        raise UserError(f"stage {number} ({stage.name})", "has offsets that are not finite", "use another checkpoint")
    return {
        "stage": number,
        "name": stage.name,
        "upsampler": type(stage.upsampler).__name__,
        "input": list(stage.x.shape[1:]),
        "output": list(stage.output.shape[1:]),
        "offsets": None if offsets is None else offset_statistics(offsets, stage.margin),
    }


def choose_stage(stages: list[Stage], number: int | None, checkpoint: Path) -> int:
    """Choose the stage to show; return its number. Raises UserError if there is no stage, or not this one.

    Default: the last stage with sampling points, else the last with parameters, else the last. The very last stage may
    be a fixed interpolation at the end of the model, as in Panoptic FPN.
    """
    if not stages:
        what = "its model runs no upsampler, so there is nothing to show"
        advice = "use one that does; SegFormer with bilinear does with model.one_step=false"
        raise UserError(checkpoint, what, advice)
    if number is None:
        ranks = [2 * (stage.points is not None) + any(True for _ in stage.upsampler.parameters()) for stage in stages]
        return max(range(len(stages)), key=lambda index: (ranks[index], index))
    if not 0 <= number < len(stages):
        raise UserError(f"--stage {number}", f"the model runs {len(stages)} upsamplers", f"use 0 to {len(stages) - 1}")
    return number
