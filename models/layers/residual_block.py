"""The block that vision transformers are made of."""

import torch
from torch import Tensor, nn

from models.layers.tiling import by_rows

MLP_RATIO = 4


class ResidualBlock(nn.Module):
    """Attention and MLP, each behind a norm and beside a shortcut. Map [B, H, W, C] -> the same.

    attention, mlp: modules from maps to maps. The mlp has MLP_RATIO times as many channels inside, and looks at pixels
    at most one away. eps: of the norms. drop_path: see `add`.
    """

    def __init__(self, channels: int, attention: nn.Module, mlp: nn.Module, eps: float, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=eps)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(channels, eps=eps)
        self.mlp = mlp
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> the same."""
        x = self.add(x, self.attention(self.attention_norm(x)))
        if self.training:
            return self.add(x, self.mlp(self.mlp_norm(x)))
        return self.add(x, by_rows(lambda rows: self.mlp(self.mlp_norm(rows)), x, MLP_RATIO * x.shape[3], margin=1))

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """The sum; in training, for each image the branch is left out at the rate `drop_path`."""
        if not self.training or self.drop_path == 0:
            return x + branch
        keep = 1 - self.drop_path
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) < keep
        return torch.addcmul(x, branch, kept / keep)
