"""Faster R-CNN and Mask R-CNN: region proposals, and the heads that look at regions."""
