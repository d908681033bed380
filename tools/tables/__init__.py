"""The paper's tables of parameters and FLOPs, counted from our models: `python -m tools.tables`."""
