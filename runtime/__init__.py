"""What a run needs besides its model and data: processes, optimiser, schedule, checkpoints, log."""
