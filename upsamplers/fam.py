"""FAM, the Flow Alignment Module of SFNet (ECCV 2020), and the gated form of SFNet-Lite (IJCV 2023).

Published for as many guide channels as x has. Without the gate the formula holds for any number.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import Points, Upsampler, UpsamplerConfig, at_least_float32
from upsamplers.points import sample_points


class Fam(Upsampler):
    """Warp x by a flow predicted from x and the guide. x [B, C, H, W] -> [B, C, sH, sW].

    Zero flow is bilinear interpolation with align_corners=True. One unit of flow is (W - 1) / (2sW) low-res pixels
    along a row. Outside the map x is zero.
    gated: warp the guide too, by a flow of its own, and blend both by a learned gate G: G · x + (1 - G) · guide.
    Raises ValueError if gated is on and guide and x have different channel counts.
    """

    uses_guide = True

    def __init__(self, channels: int, guide_channels: int | None = None, scale: int = 2, gated: bool = False) -> None:
        super().__init__(channels, guide_channels, scale)
        if gated and self.guide_channels != channels:
            raise ValueError(
                f"fam: gated mixes guide and x, but they have {self.guide_channels} and {channels} channels"
            )
        middle = max(1, channels // 2)
        self.down_h = nn.Conv2d(channels, middle, 1, bias=False)
        self.down_l = nn.Conv2d(self.guide_channels, middle, 1, bias=False)
        self.flow_make = nn.Conv2d(2 * middle, 4 if gated else 2, 3, padding=1, bias=False)
        self.flow_gate = nn.Conv2d(2 * middle, 1, 3, padding=1, bias=False) if gated else None

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, sH, sW] to [B, C, sH, sW]."""
        assert guide is not None
        both = self._features(x, guide)
        flow = self.flow_make(both)
        warped = sample_points(x, _positions(x, flow[:, :2])[1], None, "zeros")
        if self.flow_gate is None:
            return warped
        warped_guide = sample_points(guide, _positions(guide, flow[:, 2:])[1], None, "zeros")
        return torch.lerp(warped_guide, warped, torch.sigmoid(self.flow_gate(both)).to(x.dtype))

    def weighted_points(self, x: Tensor, guide: Tensor | None) -> Points:
        """See Upsampler. The gate, if any, is applied after them."""
        assert guide is not None
        starts, positions = _positions(x, self.flow_make(self._features(x, guide))[:, :2])
        return Points(starts, positions, None, "zeros")

    def _features(self, x: Tensor, guide: Tensor) -> Tensor:
        """Both maps, compressed and at the size of the guide, x first."""
        coarse = F.interpolate(self.down_h(x), guide.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat([coarse, self.down_l(guide)], dim=1)

    def macs(self, height: int, width: int) -> int:
        """Convolutions, x at low and the rest at high resolution, and 11 for each element that is read."""
        fine = sum(layer.weight.numel() for layer in (self.down_l, self.flow_make)) + 11 * self.channels
        if self.flow_gate is not None:
            fine += self.flow_gate.weight.numel() + (11 + 2) * self.channels
        return (self.down_h.weight.numel() + self.scale**2 * fine) * height * width


def _positions(x: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where to read x for a flow [B, 2, h, w] (column, row): for zero flow [h, w, 2], and [B, 1, 1, h, w, 2].

    The published grid is -1..1 between the outermost pixel centres, plus flow / (w, h). In pixels of x that is
    column · (W - 1) / (w - 1) + flow · (W - 1) / 2w, counted from the centre of the first.
    """
    flow = at_least_float32(flow)
    steps, starts = [], []
    for length, output in zip(x.shape[:1:-1], flow.shape[:1:-1], strict=True):  # columns, then rows
        indices = torch.arange(output, dtype=flow.dtype, device=flow.device)
        starts.append(indices * ((length - 1) / max(output - 1, 1)) + 0.5)
        steps.append(flow.new_full((1,), (length - 1) / (2 * output)))
    start = torch.stack(torch.meshgrid(*starts, indexing="xy"), dim=-1)
    return start, start + flow[:, None, None].movedim(3, -1) * torch.cat(steps)


@dataclass(frozen=True)
class FamConfig(UpsamplerConfig):
    """The option of FAM. gated: the form of SFNet-Lite, which needs as many guide channels as x has."""

    name: Literal["fam"] = "fam"
    gated: bool = False

    def construct(self, channels: int, guide_channels: int, scale: int) -> Fam:
        """See UpsamplerConfig. guide_channels may differ from channels, unless gated."""
        return Fam(channels, guide_channels, scale, self.gated)
