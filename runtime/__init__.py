"""Parts of a run that do not depend on its model and data: processes, optimiser, schedule, checkpoints, log."""
