"""FADE: Fusing the Assets of Decoder and Encoder (ECCV 2022), in its later low-to-high form, and FADE-Lite (IJCV 2024).

The DySample paper uses FADE without the gate. Published for scale 2; the formula holds for every scale.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from upsamplers.base import Upsampler, UpsamplerConfig, at_least_float32, require_odd, require_whole, unshuffle
from upsamplers.reassemble import reassemble


class Fade(Upsampler):
    """Reassemble x with kernels predicted jointly from x and the guide. x [B, C, H, W] -> [B, C, sH, sW].

    gate: blend the guide into the result by a learned gate G: G · guide + (1 - G) · reassembled x.
    lite: FADE-Lite. It compresses to K² channels and encodes each by its own 3 x 3 filter, and it always has the gate.
    Where guide and x differ in channels they cannot be blended; the result is then (1 - G) · reassembled x, and the
    host has the guide's part.
    embedding: channels to compress to, without lite.
    Raises ValueError if a kernel size is even, or if gate is on and guide and x have different channel counts.
    """

    uses_guide = True

    def __init__(
        self,
        channels: int,
        guide_channels: int | None = None,
        scale: int = 2,
        gate: bool = False,
        embedding: int = 64,
        kernel: int = 5,
        encoder_kernel: int = 3,
        lite: bool = False,
    ) -> None:
        super().__init__(channels, guide_channels, scale)
        require_odd(kernel=kernel, encoder_kernel=encoder_kernel)
        if gate and self.guide_channels != channels:
            raise ValueError(
                f"fade: gate mixes guide and x, but they have {self.guide_channels} and {channels} channels"
            )
        self.kernel = kernel
        embedding, groups = (kernel**2, kernel**2) if lite else (embedding, 1)
        self.compressor_en = nn.Conv2d(self.guide_channels, embedding, 1)
        self.compressor_de = nn.Conv2d(channels, embedding, 1, bias=False)
        self.content_encoder = nn.Conv2d(
            embedding, kernel**2, encoder_kernel, padding=encoder_kernel // 2, groups=groups
        )
        self.gate = nn.Conv2d(channels, 1, 1) if gate or lite else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, sH, sW] to [B, C, sH, sW]."""
        assert guide is not None
        output = reassemble(x, self.kernels(x, guide))
        if self.gate is None:
            return output
        gate = torch.sigmoid(self.gate(x))
        gate = gate.repeat_interleave(self.scale, dim=2).repeat_interleave(self.scale, dim=3).to(output.dtype)
        if self.guide_channels != self.channels:
            return output * (1 - gate)
        return torch.lerp(output, guide.to(output.dtype), gate)

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler. The gate, if any, is applied after them."""
        # The shared encoder is applied to each map at its own resolution. So its bias is added twice, as published.
        fine = unshuffle(self.content_encoder(self.compressor_en(guide)), self.scale)
        coarse = self.content_encoder(self.compressor_de(x)).unsqueeze(2)
        logits = at_least_float32(fine) + at_least_float32(coarse)  # [B, K², s², H, W]
        return torch.softmax(logits, dim=1).unsqueeze(1)

    def macs(self, height: int, width: int) -> int:
        """Convolutions of x at low and of the guide at high resolution; K² per output element, with a gate K² + 2.

        A gate that has no guide to blend takes one product less.
        """
        encoder = self.content_encoder.weight.numel()
        coarse = self.compressor_de.weight.numel() + encoder
        fine = self.compressor_en.weight.numel() + encoder + self.kernel**2 * self.channels
        if self.gate is not None:
            coarse += self.channels
            fine += (2 if self.guide_channels == self.channels else 1) * self.channels
        return (coarse + self.scale**2 * fine) * height * width


@dataclass(frozen=True)
class FadeConfig(UpsamplerConfig):
    """The options of FADE and, with lite, of FADE-Lite. The defaults are those of all models in the DySample paper.

    FADE-Lite has a gate with and without `gate`, and no embedding.
    """

    name: Literal["fade"] = "fade"
    lite: bool = False
    gate: bool = False
    embedding: int = 64
    kernel: int = 5
    encoder_kernel: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(embedding=self.embedding)
        require_odd(kernel=self.kernel, encoder_kernel=self.encoder_kernel)
        if self.lite and self.embedding != 64:
            raise ValueError("embedding is an option of FADE without lite; FADE-Lite compresses to kernel² channels")

    def construct(self, channels: int, guide_channels: int, scale: int) -> Fade:
        """See UpsamplerConfig. With gate, guide_channels must equal channels."""
        sizes = self.embedding, self.kernel, self.encoder_kernel
        return Fade(channels, guide_channels, scale, self.gate, *sizes, lite=self.lite)
