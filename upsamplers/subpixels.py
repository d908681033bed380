"""The sub-pixel layout: a high-res map written at low resolution, [B, C, s², H, W].

High-res pixel (s·h+i, s·w+j) stands at low-res pixel (h, w), at index i·s+j of the extra dimension. Flattening C and s²
gives the channel order of torch's pixel_shuffle, whose backward fails on empty batches (seen in PyTorch 2.14).
"""

from torch import Tensor


def shuffle(y: Tensor, scale: int) -> Tensor:
    """From the sub-pixel layout to high resolution. y [B, C, s², H, W] -> [B, C, sH, sW]."""
    B, C, _, H, W = y.shape
    y = y.reshape(B, C, scale, scale, H, W).permute(0, 1, 4, 2, 5, 3)
    # Flattened first: for a reshape in one step torch.export puts a condition on W (PyTorch 2.10, 2.11).
    return y.flatten(2).reshape(B, C, scale * H, scale * W)


def unshuffle(y: Tensor, scale: int) -> Tensor:
    """From high resolution to the sub-pixel layout. y [B, C, sH, sW] -> [B, C, s², H, W]."""
    B, C, height, width = y.shape
    H, W = height // scale, width // scale
    y = y.reshape(B, C, H, scale, W, scale).permute(0, 1, 3, 5, 2, 4)
    return y.reshape(B, C, scale**2, H, W)
