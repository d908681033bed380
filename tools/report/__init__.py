"""One page for a run of train.py, or for several side by side."""
