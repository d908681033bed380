"""The transformer of MaskFormer, which is DETR's. Carion et al., ECCV 2020; Cheng et al., NeurIPS 2021."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.position import sine_position


class TransformerEncoder(nn.Module):
    """Pixels of one level of the backbone look at each other -> as many features of every pixel.

    in_channels: of the level. channels: of the result. hidden: between the two linear layers.
    """

    def __init__(self, in_channels: int, channels: int, layers: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.enter = _projection(in_channels, channels)
        self.layers = nn.ModuleList(EncoderLayer(channels, heads, hidden, dropout) for _ in range(layers))
        _initialise(self.layers)

    def forward(self, level: Tensor) -> Tensor:
        """Level [B, C_in, H, W] -> [B, C, H, W]."""
        projected = self.enter(level)
        x = projected.flatten(2).mT
        size = level.shape[2], level.shape[3]
        position = sine_position(size, x.shape[2], x.device, whole_turn=True)
        for layer in self.layers:
            x = layer(x, position)
        return x.mT.reshape(projected.shape)


class EncoderLayer(nn.Module):
    """Self-attention and two linear layers, each added and normalised."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.among = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Pixels x [B, N, C] and their positions [N, C], which only tell where to look -> [B, N, C]."""
        own = x + position
        x = self.norms[0](x + self.dropout(self.among(own, own, x, need_weights=False)[0]))
        hidden = self.dropout(F.relu(self.expand(x)))
        result: Tensor = self.norms[1](x + self.dropout(self.contract(hidden)))
        return result


class TransformerDecoder(nn.Module):
    """Queries look at each other and at one level of the backbone -> features of every query, after every layer.

    in_channels: of the level; as many as `channels`, those of the queries, enter as they are. hidden: between the two
    linear layers. Layers have their norms behind the sums, and one more norm, shared by all layers, stands before each
    result.
    """

    def __init__(
        self, in_channels: int, channels: int, queries: int, layers: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.enter = nn.Identity() if in_channels == channels else _projection(in_channels, channels)
        self.queries = nn.Embedding(queries, channels)
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        _initialise(self.layers)

    def forward(self, level: Tensor) -> list[Tensor]:
        """Level [B, C_in, H, W] -> of every layer, first to last, [B, Q, C]."""
        memory = self.enter(level).flatten(2).mT
        size = level.shape[2], level.shape[3]
        keys = memory + sine_position(size, memory.shape[2], memory.device, whole_turn=True)
        position = self.queries.weight.repeat(len(memory), 1, 1)  # a view confuses PyTorch's counter of FLOPs
        x = torch.zeros_like(position)
        results = []
        for layer in self.layers:
            x = layer(x, position, keys, memory)
            results.append(self.norm(x))
        return results


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and two linear layers, each added and normalised."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.among = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.across = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
        """Queries x [B, Q, C] and their positions [B, Q, C]; memory [B, N, C], and the same with positions as keys."""
        own = x + position
        x = self.norms[0](x + self.dropout(self.among(own, own, x, need_weights=False)[0]))
        x = self.norms[1](x + self.dropout(self.across(x + position, keys, memory, need_weights=False)[0]))
        hidden = self.dropout(F.relu(self.expand(x)))
        result: Tensor = self.norms[2](x + self.dropout(self.contract(hidden)))
        return result


def _projection(in_channels: int, channels: int) -> nn.Conv2d:
    """To as many channels as a transformer has."""
    conv = nn.Conv2d(in_channels, channels, 1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _initialise(layers: nn.ModuleList) -> None:
    """As DETR."""
    for parameter in layers.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
