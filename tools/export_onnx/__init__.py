"""Export of trained models, proven by running the written file."""

DEFAULT_OPSET = 18  # the one that PyTorch writes by itself
