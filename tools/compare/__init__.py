"""Train variants over several seeds and say which differences are real: `python -m tools.compare`."""
