"""Convert a file of published weights into ours: `python -m tools.convert_weights`."""
