"""Export of trained models, proven by running the written file."""
