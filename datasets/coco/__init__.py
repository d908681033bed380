"""COCO 2017, boxes and masks: annotation files, masks, result files."""
