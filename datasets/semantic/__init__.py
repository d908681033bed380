"""Semantic segmentation: ADE20K and data in the same form; prediction files."""
