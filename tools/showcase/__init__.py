"""The pictures at the top of the README: one scene with all five tasks, and how DySample learns where to sample."""
