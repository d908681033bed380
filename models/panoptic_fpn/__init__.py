"""Panoptic FPN: Mask R-CNN, a semantic head on the same pyramid, and their fusion."""
