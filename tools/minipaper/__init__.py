"""The paper's comparisons at the scale of a CPU: `python -m tools.minipaper`."""
