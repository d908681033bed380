"""DepthFormer: metric depth from one image."""
