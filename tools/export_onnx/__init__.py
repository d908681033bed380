"""Export a trained model, and prove the file: `python -m tools.export_onnx`."""
