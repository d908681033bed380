"""What the commands share: the plan of an experiment, its trained model, its results and pictures."""
