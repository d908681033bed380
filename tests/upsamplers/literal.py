"""Formulas written out number by number, in float64, for the tests to compare with."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from upsamplers import build_upsampler


def read(x, row, column, outside):
    """x [C, H, W] at places in units of pixels, centres at whole numbers -> [C, *places]. outside: "zeros", "border".

    Every pixel counts by its distances in rows and columns, if they are below 1.
    """
    H, W = x.shape[1:]
    if outside == "border":
        row, column = row.clamp(0, H - 1), column.clamp(0, W - 1)
    total = 0
    for r, c in itertools.product(range(H), range(W)):
        share = (1 - (row - r).abs()).clamp(min=0) * (1 - (column - c).abs()).clamp(min=0)
        total = total + x[:, r, c].reshape(-1, *[1] * row.ndim) * share
    return total


def pixels(height, width):
    """The row and the column of every pixel, both [height, width]."""
    rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    return rows[:, None].expand(height, width), columns.expand(height, width)


def nearest(x, scale):
    """Repeat every pixel of x [C, H, W]."""
    return x.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)


def enlarge(x, height, width, align_corners):
    """Bilinear interpolation of x [C, H, W]."""
    (H, W), (row, column) = x.shape[1:], pixels(height, width)
    if align_corners:
        return read(x, row * (H - 1) / max(height - 1, 1), column * (W - 1) / max(width - 1, 1), "border")
    return read(x, (row + 0.5) * H / height - 0.5, (column + 0.5) * W / width - 0.5, "border")


def conv(layer, x):
    """A convolution of x [C, H, W] by another way than the layer's own: as a product of unfolded windows."""
    weight = layer.weight
    groups, K = layer.groups, weight.shape[-1]
    parts = []
    for features, filters in zip(x.chunk(groups), weight.chunk(groups), strict=True):
        windows = F.unfold(features[None], K, padding=K // 2)[0]
        parts.append((filters.flatten(1) @ windows).reshape(-1, *x.shape[1:]))
    output = torch.cat(parts)
    return output if layer.bias is None else output + layer.bias[:, None, None]


def normed(x, weight, bias, groups):
    """Group norm of x [C, H, W]; with groups = None layer norm over the channels of each pixel."""
    if groups is None:
        mean, var = x.mean(0, keepdim=True), x.var(0, keepdim=True, correction=0)
        result = (x - mean) / torch.sqrt(var + 1e-5)
    else:
        rows = x.reshape(groups, -1)
        mean, var = rows.mean(1, keepdim=True), rows.var(1, keepdim=True, correction=0)
        result = ((rows - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)
    return result * weight[:, None, None] + bias[:, None, None]


def taps(x, kernel, dilation=1, outside="zeros"):
    """For each tap of a window, row by row, x [C, H, W] as every pixel sees it there, pixel by pixel."""
    H, W = x.shape[1:]
    for dy, dx in itertools.product(range(kernel), range(kernel)):
        seen = torch.zeros_like(x)
        for row, column in itertools.product(range(H), range(W)):
            h, w = row + (dy - kernel // 2) * dilation, column + (dx - kernel // 2) * dilation
            if outside == "border":
                h, w = min(max(h, 0), H - 1), min(max(w, 0), W - 1)
            if 0 <= h < H and 0 <= w < W:
                seen[:, row, column] = x[:, h, w]
        yield seen


def window_sum(x, kernels, scale=1):
    """Sum windows of x [C, H, W] by kernels [K², sH, sW], zeros outside -> [C, sH, sW]."""
    K = round(kernels.shape[0] ** 0.5)
    return sum(kernel * nearest(seen, scale) for kernel, seen in zip(kernels, taps(x, K), strict=True))


def lively(name, channels, guide_channels, scale, std=0.3):
    """An upsampler in float64 whose every parameter is random, so that points leave the map. name: or options."""
    upsampler = build_upsampler(name, channels, guide_channels, scale).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in upsampler.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std)
    return upsampler


def inputs(channels, guide_channels, height, width, scale):
    """Two images and their guides, in float64."""
    generator = torch.Generator().manual_seed(1)
    shapes = (2, channels, height, width), (2, guide_channels, scale * height, scale * width)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def assert_agrees(upsampler, formula, size, guide_channels=None):
    """Outputs and all gradients are those of formula(upsampler, x [C, H, W], guide [G, sH, sW], scale)."""
    x, guide = inputs(upsampler.channels, guide_channels or upsampler.guide_channels, *size, upsampler.scale)
    found = upsampler(x, guide)
    expected = torch.stack([formula(upsampler, *pair, upsampler.scale) for pair in zip(x, guide, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    leaves: list[Tensor] = [x, *([guide] if upsampler.uses_guide else []), *upsampler.parameters()]
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = [torch.autograd.grad(output, leaves, along) for output in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
