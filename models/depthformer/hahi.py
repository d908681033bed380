"""The neck of DepthFormer: hierarchical aggregation and heterogeneous interaction (HAHI). Li et al., "DepthFormer:
Exploiting Long-Range Correlation and Local Information for Accurate Monocular Depth Estimation", Machine Intelligence
Research 2023.

The transformer's levels attend to each other (aggregation). The convolutional branch attends to them (interaction). As
in the authors' code, attention layers have no norms and no feed-forward networks, and batch norms are not synchronised.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.deformable_attention import DeformableAttention
from models.layers.position import sine_position
from models.layers.precision import without_autocast
from structures import Size

HEADS = 8


class HAHI(nn.Module):
    """Levels -> levels of the same shapes, each combined by attention with all transformer levels.

    in_channels: channels of the convolutional branch, then of the transformer's levels, fine to coarse. channels:
    channels of the attention layers, a multiple of 8. points, dropout: see `DeformableAttention`.
    Raises ValueError if 8 does not divide the channels.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, points: int, dropout: float) -> None:
        super().__init__()
        if channels % HEADS:
            raise ValueError(f"channels {channels} do not divide into {HEADS} heads; use a multiple of {HEADS}")
        levels = len(in_channels) - 1
        self.laterals = nn.ModuleList(conv_norm_relu(width, width, 1) for width in in_channels)
        self.embeds = nn.ModuleList(conv_norm_relu(width, channels, 1) for width in in_channels)
        self.level_vectors = nn.Parameter(torch.randn(levels, channels))
        self.reference = nn.Linear(channels, 2)
        self.aggregation = DeformableAttention(channels, HEADS, levels, points, dropout)
        self.interaction = DeformableAttention(channels, HEADS, levels, points, dropout)
        self.fusions = nn.ModuleList(conv_norm_relu(width + channels, width, 3) for width in in_channels)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The convolutional branch's [B, C_0, H_0, W_0], then [B, C_i, H_i, W_i], fine to coarse -> the same shapes."""
        laterals = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        query, *embedded = (embed(level).flatten(2).mT for embed, level in zip(self.embeds, laterals, strict=True))
        fine, *sizes = ((level.shape[2], level.shape[3]) for level in laterals)

        channels, device = query.shape[2], query.device
        positions = [
            sine_position(size, channels, device) + vector
            for size, vector in zip(sizes, self.level_vectors, strict=True)
        ]
        centres = torch.cat([pixel_centres(size, device) for size in sizes])
        tokens = torch.cat(embedded, dim=1)
        tokens = self.aggregation(tokens, torch.cat(positions), tokens, centres, sizes)

        position = sine_position(fine, channels, device)
        with without_autocast(query):  # bfloat16 would shift points by half a pixel
            reference = self.reference(position).sigmoid()
        query = self.interaction(query, position, tokens, reference, sizes)
        del position  # as large as the query, and the convolutions that follow need the memory

        attended = [query, *tokens.split([h * w for h, w in sizes], dim=1)]
        maps = [each.mT.unflatten(2, size) for each, size in zip(attended, [fine, *sizes], strict=True)]
        # The order of concatenation is that of the published weights.
        pairs = [(maps[0], laterals[0]), *zip(laterals[1:], maps[1:], strict=True)]
        return [fusion(torch.cat(pair, dim=1)) for fusion, pair in zip(self.fusions, pairs, strict=True)]


def conv_norm_relu(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True)))


def pixel_centres(size: Size, device: torch.device) -> Tensor:
    """The pixel centres of a map of `size` (H, W): [H * W, 2], (x, y) in 0..1 from edge to edge, row by row."""
    rows, columns = ((torch.arange(length, device=device) + 0.5) / length for length in size)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2).flatten(0, 1)
