"""Pictures of where a trained upsampler samples: `python -m tools.show_sampling`."""
