"""COCO 2017, panoptic: annotation files, segment ids in PNGs, prediction files."""
