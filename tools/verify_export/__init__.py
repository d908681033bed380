"""Comparison of a runtime with PyTorch on the machine where it runs, without PyTorch."""
