"""Fit a scale and a shift that make the predictions of a trained depth model those of a new camera."""
