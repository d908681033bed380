"""The transformer of MaskFormer, the same as in DETR. Carion et al., ECCV 2020; Cheng et al., NeurIPS 2021."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.position import sine_position


class TransformerEncoder(nn.Module):
    """Self-attention layers over the pixels of one level of the backbone.

    in_channels: of the level. channels: of the result. hidden: channels between the two linear layers.
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
        position = sine_position(size, x.shape[2], x.device, normalised=True)
        for layer in self.layers:
            x = layer(x, position)
        return x.mT.reshape(projected.shape)


class EncoderLayer(nn.Module):
    """Self-attention and two linear layers, each with a residual connection and a norm after it."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        # The self-attention. Its attribute name is part of keys in saved checkpoints and converted weights: keep it.
        self.among = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Pixel features x [B, N, C] -> [B, N, C]. position [N, C] is added to queries and keys, not to values."""
        self_attention, with_position = self.among, x + position
        x = self.norms[0](x + self.dropout(self_attention(with_position, with_position, x, need_weights=False)[0]))
        hidden = self.dropout(F.relu(self.expand(x)))
        result: Tensor = self.norms[1](x + self.dropout(self.contract(hidden)))
        return result


class TransformerDecoder(nn.Module):
    """Queries attend to each other and to one level of the backbone. Returns the query features after each layer.

    in_channels: of the level. channels: of the queries; if they differ from in_channels, the level is projected first.
    hidden: channels between the two linear layers. Layers are post-norm. One more norm, shared by all layers, is
    applied to each result.
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
        """Level [B, C_in, H, W] -> query features [B, Q, C] after each layer, first to last."""
        memory = self.enter(level).flatten(2).mT
        size = level.shape[2], level.shape[3]
        keys = memory + sine_position(size, memory.shape[2], memory.device, normalised=True)
        position = self.queries.weight.repeat(memory.shape[0], 1, 1)  # `expand` would confuse PyTorch's FLOP counter
        x = torch.zeros_like(position)
        results = []
        for layer in self.layers:
            x = layer(x, position, keys, memory)
            results.append(self.norm(x))
        return results


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and two linear layers, each with a residual connection and a norm after it."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        # Self-attention and cross-attention. Their attribute names are part of keys in saved checkpoints and
        # converted weights: keep them.
        self.among = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.across = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
        """Query features x [B, Q, C] -> [B, Q, C].

        position: [B, Q, C], learned, added to the queries and keys that come from x. memory: [B, N, C], pixel features,
        the values of the cross-attention. keys: [B, N, C], memory plus position encoding.
        """
        self_attention, cross_attention, with_position = self.among, self.across, x + position
        x = self.norms[0](x + self.dropout(self_attention(with_position, with_position, x, need_weights=False)[0]))
        x = self.norms[1](x + self.dropout(cross_attention(x + position, keys, memory, need_weights=False)[0]))
        hidden = self.dropout(F.relu(self.expand(x)))
        result: Tensor = self.norms[2](x + self.dropout(self.contract(hidden)))
        return result


def _projection(in_channels: int, channels: int) -> nn.Conv2d:
    """A 1 x 1 convolution to the channels of a transformer."""
    conv = nn.Conv2d(in_channels, channels, 1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _initialise(layers: nn.ModuleList) -> None:
    """Initialise as DETR: Xavier-uniform weights, biases unchanged."""
    for parameter in layers.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
