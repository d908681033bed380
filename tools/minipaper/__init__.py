"""The paper's comparisons, small enough for a CPU: `python -m tools.minipaper`."""
