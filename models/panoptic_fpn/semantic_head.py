"""The semantic branch of Panoptic FPN. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, figure 3."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.distributed import mean_count
from structures import IGNORE, Batch
from upsamplers import UpsamplerConfig

LEVELS = 4  # P2..P5
STRIDE = 4  # of P2
GROUPS = 32  # of the group norms


class SemanticHead(nn.Module):
    """Upsample P2..P5 to the size of P2, add them up and classify.

    P2 has one unit: a 3 x 3 convolution, group norm and ReLU. P3, P4 and P5 have 1, 2 and 3 stages, each a unit and x2
    upsampling. channels: channels of the units; a multiple of 32. num_classes: the stuff classes and, last, one for all
    things. upsampler: every stage has its own. Its guide is the level of the pyramid whose size it reaches.
    Raises ValueError if 32 does not divide the channels.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, upsampler: UpsamplerConfig) -> None:
        super().__init__()
        if channels % GROUPS:
            raise ValueError(f"semantic_channels {channels} do not divide into {GROUPS} groups")
        self.units = nn.ModuleList(
            nn.ModuleList(
                _conv_norm_relu(in_channels if step == 0 else channels, channels) for step in range(max(level, 1))
            )
            for level in range(LEVELS)
        )
        self.upsamplers = nn.ModuleList(
            nn.ModuleList(upsampler.build(channels, in_channels) for _ in range(level)) for level in range(LEVELS)
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """P2..P5 [B, C, H, W], each half the size of the previous one -> logits [B, K, H, W] at the size of P2."""
        total = self.units[0][0](pyramid[0])  # type: ignore[index]
        for level in range(1, LEVELS):
            x = pyramid[level]
            stages = zip(self.units[level], self.upsamplers[level], strict=True)  # type: ignore[call-overload]
            for step, (unit, upsampler) in enumerate(stages, start=1):
                x = upsampler(unit(x), guide=pyramid[level - step])
            total = total + x
        logits: Tensor = self.classifier(total)
        return logits

    def loss(self, pyramid: Sequence[Tensor], batch: Batch, classes: Tensor, divisor: int) -> Tensor:
        """Cross-entropy at the size of P2 -> scalar. A pixel of P2 has the label of the top-left of its 4 x 4 pixels.

        classes: int64, for each label of the data its class in this head. The mean is over all pixels of the images of
        all processes, including those without a label. As in mmdetection's recipe, where images are padded before they
        meet, the size of each image is rounded up to a multiple of `divisor`; further padding is no part of it.
        """
        labels = torch.stack([target.semantic[::STRIDE, ::STRIDE] for target in batch.targets]).long()  # type: ignore[index]
        labels = torch.where(labels == IGNORE, IGNORE, classes[labels.clamp(min=0)])
        logits = self(pyramid).float()
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        sides = (tuple(-(-side // divisor) * divisor // STRIDE for side in size) for size in batch.sizes)
        return total / mean_count(sum(height * width for height, width in sides), logits)


def _conv_norm_relu(in_channels: int, channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, channels), nn.ReLU(inplace=True))
