"""FreqFusion: Frequency-aware Feature Fusion for Dense Image Prediction (TPAMI 2024).

A low-pass filter enlarges x, a resampler replaces pixels that do not fit by similar neighbours, and a high-pass filter
raises the guide's high frequencies. Published for scale 2.

Published as a fusion of x and guide y, which returns u, the enlarged x, and y' = y + (y - low-passed y); its host adds
or concatenates them. This upsampler returns u + (y' - y): added to the guide that is the published sum y' + u.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsamplers.base import (
    Points,
    Upsampler,
    UpsamplerConfig,
    at_least_float32,
    default_groups,
    require_choice,
    require_divisor,
    require_scale_two,
    require_whole,
    shuffle,
    unshuffle,
)
from upsamplers.points import sample_points
from upsamplers.reassemble import reassemble, shifted_views

LOW_PASS, HIGH_PASS, ENCODER = 5, 3, 3  # sides of the kernels
HAMMING = {LOW_PASS: (0.08, 0.54, 1.0, 0.54, 0.08), HIGH_PASS: (0.08, 1.0, 0.08)}
NEIGHBOURS = 8
DILATION = 2  # of the neighbours whose similarity the resampler reads


class FreqFusion(Upsampler):
    """Low-pass, enlarge and resample x; add the guide's high frequencies. x [B, C, H, W] -> [B, C, 2H, 2W].

    high_pass: add the guide's high frequencies to the result. By default where the guide has as many channels as x.
    Without it the result is u alone. The layers stay: they also sharpen the guide's compressed form.
    resample: read the enlarged x at learned points. hamming: multiply kernels by a Hamming window.
    init: of the layers of the resampler. "identity": nearly none, as its authors intend. "published": Xavier, because
    the published constructor initialises all layers once more; points then start about a pixel away.
    compressed_channels: of both maps, by default an eighth of their channels together.
    resample_groups: contiguous channel groups, each with its own points; by default 4, or if 4 does not divide C, the
    largest smaller number that does. resample_norm: normalise what the resampler reads.
    Raises ValueError if the scale is not 2, if the groups do not divide C, or if high_pass is true and guide and x have
    different channel counts.
    """

    uses_guide = True

    def __init__(
        self,
        channels: int,
        guide_channels: int | None = None,
        scale: int = 2,
        high_pass: bool | None = None,
        resample: bool = True,
        hamming: bool = True,
        init: str = "identity",
        compressed_channels: int | None = None,
        resample_groups: int | None = None,
        resample_norm: bool = True,
    ) -> None:
        require_scale_two("freqfusion", scale)
        super().__init__(channels, guide_channels, scale)
        require_choice(("identity", "published"), init=init)
        if high_pass and self.guide_channels != channels:
            raise ValueError(
                f"freqfusion: high_pass adds the guide's high frequencies to x, but they have {self.guide_channels} and"
                f" {channels} channels"
            )
        self.high_pass = self.guide_channels == channels if high_pass is None else high_pass
        self.hamming = hamming
        c = max(1, (channels + self.guide_channels) // 8) if compressed_channels is None else compressed_channels
        require_whole(compressed_channels=c)
        self.hr_channel_compressor = nn.Conv2d(self.guide_channels, c, 1)
        self.lr_channel_compressor = nn.Conv2d(channels, c, 1)
        self.content_encoder = nn.Conv2d(c, LOW_PASS**2, ENCODER, padding=ENCODER // 2)
        self.content_encoder2 = nn.Conv2d(c, HIGH_PASS**2, ENCODER, padding=ENCODER // 2)
        self.dysampler = None
        if resample:
            groups = default_groups("freqfusion", channels, 4) if resample_groups is None else resample_groups
            require_divisor(channels, resample_groups=groups)
            self.dysampler = Resampler(c, groups, resample_norm)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and (init == "published" or not name.startswith("dysampler")):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for encoder in (self.content_encoder, self.content_encoder2):
            nn.init.normal_(encoder.weight, std=0.001)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Upsample x [B, C, H, W] by guide [B, G, 2H, 2W] to [B, C, 2H, 2W]."""
        assert guide is not None
        fine, coarse = self._compress(x, guide)
        low = self._low_pass(fine, coarse)
        output = reassemble(x, low)
        if self.dysampler is not None:
            # Half a pixel of x is a pixel of the enlarged x.
            output = sample_points(output, 2 * self.dysampler(fine.sharp, coarse).positions, None, "border")
        if self.high_pass:
            high = fine.high_pass + reassemble(self.content_encoder2(coarse), low)
            output = output + (guide - self._filter(guide, high))
        return output

    def kernels(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """See Upsampler. The resampler and the high-pass filter are applied after them."""
        assert guide is not None
        return self._low_pass(*self._compress(x, guide))

    def weighted_points(self, x: Tensor, guide: Tensor | None) -> Points | None:
        """See Upsampler. The resampler reads the enlarged x there, not x. None without resampler."""
        assert guide is not None
        if self.dysampler is None:
            return None
        fine, coarse = self._compress(x, guide)
        found: Points = self.dysampler(fine.sharp, coarse)
        return found

    def _compress(self, x: Tensor, guide: Tensor) -> tuple["Compressed", Tensor]:
        """The guide and x in c channels, each at its own resolution."""
        fine = self.hr_channel_compressor(guide)
        high_pass = self.content_encoder2(fine)
        sharp = 2 * fine - self._filter(fine, high_pass)
        return Compressed(sharp, high_pass), self.lr_channel_compressor(x)

    def _low_pass(self, fine: "Compressed", coarse: Tensor) -> Tensor:
        """The kernels that enlarge x, [B, 1, 25, 4, H, W]."""
        logits = self.content_encoder(fine.sharp)
        logits = logits + reassemble(self.content_encoder(coarse), self._enlarging(logits))
        return self._enlarging(logits)

    def _filter(self, features: Tensor, logits: Tensor) -> Tensor:
        """Filter features [B, C, h, w] at their own resolution by kernels that these logits [B, K², h, w] give."""
        return reassemble(features, self._normalise(logits)[:, None, :, None])

    def _enlarging(self, logits: Tensor) -> Tensor:
        """Logits [B, K², 2H, 2W] -> kernels [B, 1, K², 4, H, W]."""
        return unshuffle(self._normalise(logits), 2).unsqueeze(1)

    def _normalise(self, logits: Tensor) -> Tensor:
        """Kernels that sum to 1 from logits [B, K², h, w], in float32 or wider.

        The published module multiplies them by the window after the softmax and divides by the sum. That is the same.
        """
        logits = at_least_float32(logits)
        if self.hamming:
            window = logits.new_tensor(HAMMING[math.isqrt(logits.shape[1])]).log()
            logits = logits + (window[:, None] + window).reshape(-1, 1, 1)
        return torch.softmax(logits, dim=1)

    def macs(self, height: int, width: int) -> int:
        """Convolutions and windows, each at its own resolution, and of the resampler also similarities and reads."""
        c, low, high = self.hr_channel_compressor.out_channels, LOW_PASS**2, HIGH_PASS**2
        encoders = self.content_encoder.weight.numel() + self.content_encoder2.weight.numel()
        coarse = self.lr_channel_compressor.weight.numel() + encoders
        fine = self.hr_channel_compressor.weight.numel() + encoders
        fine += high * c + low * low + low * self.channels  # windows in the compressed guide, in logits, in x
        if self.high_pass:
            fine += low * high + high * self.channels
        if self.dysampler is not None:
            coarse += self.dysampler.coarse_macs()
            fine += self.dysampler.fine_macs() + 11 * self.channels
        return (coarse + self.scale**2 * fine) * height * width


class Compressed(NamedTuple):
    """sharp: the guide's compressed form, its high frequencies raised. high_pass: the logits of the filter for that."""

    sharp: Tensor
    high_pass: Tensor


class Resampler(nn.Module):
    """DySample with a guide: points from both compressed maps, and from how similar each pixel is to its neighbours.

    channels: of both maps. groups: of the map that is read.
    """

    def __init__(self, channels: int, groups: int, norm: bool) -> None:
        super().__init__()
        self.groups = groups
        parts = default_groups("freqfusion norm", channels, preferred=max(1, channels // 8))
        self.norm_hr = nn.GroupNorm(parts, channels) if norm else nn.Identity()
        self.norm_lr = nn.GroupNorm(parts, channels) if norm else nn.Identity()
        features = channels + NEIGHBOURS
        self.offset, self.direct_scale = (nn.Conv2d(features, 8 * groups, 3, padding=1) for _ in range(2))
        self.hr_offset, self.hr_direct_scale = (nn.Conv2d(features, 2 * groups, 3, padding=1) for _ in range(2))
        for layer, std in (
            (self.offset, 0.001),
            (self.hr_offset, 0.001),
            (self.direct_scale, 0),
            (self.hr_direct_scale, 0),
        ):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor) -> Points:
        """Points, without weights, from maps [B, c, 2H, 2W] and [B, c, H, W]; see `Points`."""
        fine, coarse = (_with_similarities(z) for z in (self.norm_hr(fine), self.norm_lr(coarse)))
        offset = self._both(self.offset(coarse), self.hr_offset(fine))
        scope = self._both(self.direct_scale(coarse), self.hr_direct_scale(fine))
        offset = offset * torch.sigmoid(scope)
        B, _, height, width = offset.shape
        offset = offset.reshape(B, 2, self.groups, 1, height, width).movedim(1, -1)
        rows, columns = (
            (torch.arange(length, dtype=offset.dtype, device=offset.device) + 0.5) / 2 for length in (height, width)
        )
        starts = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        return Points(starts, starts + offset, None, "border")

    def _both(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Add maps [B, 8g, H, W], with sub-pixels in their channels, and [B, 2g, 2H, 2W] -> [B, 2g, 2H, 2W]."""
        coarse = shuffle(coarse.unflatten(1, (2 * self.groups, 4)), 2)
        return at_least_float32(coarse) + at_least_float32(fine)

    def coarse_macs(self) -> int:
        """For each pixel of the coarse map: convolutions and similarities."""
        return self.offset.weight.numel() + self.direct_scale.weight.numel() + self._similarity_macs()

    def fine_macs(self) -> int:
        """The same for each pixel of the fine map."""
        return self.hr_offset.weight.numel() + self.hr_direct_scale.weight.numel() + self._similarity_macs()

    def _similarity_macs(self) -> int:
        """As published, which also computes the similarity of a pixel to itself, and drops it."""
        return (NEIGHBOURS + 1) * (self.offset.in_channels - NEIGHBOURS)


def _with_similarities(z: Tensor) -> Tensor:
    """Concatenate z and its cosine similarities to eight neighbours, row by row. [B, c, h, w] -> [B, c + 8, h, w]."""
    unit = F.normalize(at_least_float32(z), dim=1, eps=1e-8)
    views = shifted_views(unit, 3, DILATION)
    similarities = [(unit * view).sum(1) for view in views[:4] + views[5:]]
    return torch.cat([z, torch.stack(similarities, dim=1).to(z.dtype)], dim=1)


@dataclass(frozen=True)
class FreqFusionConfig(UpsamplerConfig):
    """The options of FreqFusion. high_pass: by default where the guide has as many channels as x."""

    name: Literal["freqfusion"] = "freqfusion"
    high_pass: bool | None = None
    resample: bool = True
    hamming: bool = True
    init: Literal["identity", "published"] = "identity"
    compressed_channels: int | None = None
    resample_groups: int | None = None
    resample_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("compressed_channels", "resample_groups"):
            if getattr(self, option) is not None:
                require_whole(**{option: getattr(self, option)})

    def construct(self, channels: int, guide_channels: int, scale: int) -> FreqFusion:
        """See UpsamplerConfig. With high_pass: true, guide_channels must equal channels."""
        switches = self.high_pass, self.resample, self.hamming, self.init
        sizes = self.compressed_channels, self.resample_groups, self.resample_norm
        return FreqFusion(channels, guide_channels, scale, *switches, *sizes)
