"""COCO 2017, boxes and masks: the JSON file, masks, result files."""
