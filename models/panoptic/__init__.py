"""Panoptic segmentation: instances and a semantic map from one pyramid, fused into one partition of the image."""
