"""The residual block of vision transformers."""

import torch
from torch import Tensor, nn

from models.layers.tiling import apply_by_rows

MLP_RATIO = 4


class ResidualBlock(nn.Module):
    """Attention, then an MLP, each with a norm before it and a residual connection. Map [B, H, W, C] -> same shape.

    attention, mlp: modules from maps to maps of the same shape. The mlp must have MLP_RATIO times as many hidden
    channels and read pixels at most one away. eps: of the norms. drop_path: see `add_branch`.
    """

    def __init__(self, channels: int, attention: nn.Module, mlp: nn.Module, eps: float, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=eps)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(channels, eps=eps)
        self.mlp = mlp
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> same shape."""
        x = self.add_branch(x, self.attention(self.attention_norm(x)))
        if self.training:
            return self.add_branch(x, self.mlp(self.mlp_norm(x)))
        mlp = apply_by_rows(lambda rows: self.mlp(self.mlp_norm(rows)), x, MLP_RATIO * x.shape[3], margin=1)
        return self.add_branch(x, mlp)

    def add_branch(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return x + branch. In training the branch of each image is dropped with probability `drop_path`."""
        if not self.training or self.drop_path == 0:
            return x + branch
        keep = 1 - self.drop_path
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) < keep
        return torch.addcmul(x, branch, kept / keep)
