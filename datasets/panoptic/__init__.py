"""COCO panoptic: a segment for every pixel; annotations, ids as colours, prediction files."""
