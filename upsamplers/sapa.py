"""SAPA-B: Similarity-Aware Point Affiliation (NeurIPS 2022), the variant with biased projections."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import (
    Upsampler,
    UpsamplerConfig,
    default_groups,
    require_choice,
    require_odd,
    require_whole,
    unshuffle,
)
from upsamplers.reassemble import reassemble, similarity


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel. [B, C, H, W] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels to the last axis, where LayerNorm needs them, and back."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Sapa(Upsampler):
    """Reassemble x with kernels that are the softmax of guide-to-x similarities. x [B, C, H, W] -> [B, C, sH, sW].

    Similarities are not scaled by 1/√D. Keys outside the map take part in the softmax with score 0.
    norm: "layer" as for the DySample paper's numbers, or "group" as in the current published code.
    Raises ValueError for another norm or an even kernel.
    """

    uses_guide = True

    def __init__(
        self,
        channels: int,
        guide_channels: int | None = None,
        scale: int = 2,
        norm: str = "layer",
        embedding: int = 32,
        kernel: int = 5,
    ) -> None:
        super().__init__(channels, guide_channels, scale)
        require_choice(("layer", "group"), norm=norm)
        require_odd(kernel=kernel)
        self.kernel = kernel
        self.norm_y = _norm(norm, self.guide_channels)
        self.norm_x = _norm(norm, channels)
        self.q = nn.Conv2d(self.guide_channels, embedding, 1)
        self.k = nn.Conv2d(channels, embedding, 1)
        for projection in (self.q, self.k):
            nn.init.normal_(projection.weight, std=0.02)
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, sH, sW] to [B, C, sH, sW]."""
        return reassemble(x, self.kernels(x, guide))  # x itself, not its normalised form

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler."""
        query = unshuffle(self.q(self.norm_y(guide)), self.scale)
        key = self.k(self.norm_x(x))
        return torch.softmax(similarity(query, key, self.kernel), dim=1).unsqueeze(1)

    def macs(self, height: int, width: int) -> int:
        """Projections, each at its own resolution, and K²·D + K²·C per output pixel."""
        taps = self.kernel**2
        fine = self.q.weight.numel() + taps * self.q.out_channels + taps * self.channels
        return (self.k.weight.numel() + self.scale**2 * fine) * height * width


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "layer":
        return ChannelNorm(channels)
    return nn.GroupNorm(default_groups("sapa norm", channels, preferred=32), channels)


@dataclass(frozen=True)
class SapaConfig(UpsamplerConfig):
    """The options of SAPA-B. The defaults are those of the DySample paper's numbers."""

    name: Literal["sapa"] = "sapa"
    norm: Literal["layer", "group"] = "layer"
    embedding: int = 32
    kernel: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(embedding=self.embedding)
        require_odd(kernel=self.kernel)

    def construct(self, channels: int, guide_channels: int, scale: int) -> Sapa:
        """See UpsamplerConfig. guide_channels may differ from channels."""
        return Sapa(channels, guide_channels, scale, self.norm, self.embedding, self.kernel)
