"""What the commands share around one experiment: its plan, its trained model, its results and pictures."""
