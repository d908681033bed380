"""Probe: judges upsamplers on the features of a frozen backbone, by semantic segmentation or depth."""
