"""What can be measured and where results go. Imports nothing that takes long: the command line needs this first."""

from pathlib import Path

SHAPE = (1, 256, 120, 120)
DTYPES = ("float32", "bfloat16")  # of PyTorch
REPEATS = {"cpu": 5, "cuda": 50}
RESULTS = Path("benchmarks/results")
FORMATS = (".png", ".svg", ".pdf")  # of charts
