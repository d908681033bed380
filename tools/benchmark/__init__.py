"""Latency and memory of every upsampler: `python -m tools.benchmark`."""
