"""The parts of depth networks."""
