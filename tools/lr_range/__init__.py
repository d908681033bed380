"""Try learning rates and suggest one: `python -m tools.lr_range`."""
