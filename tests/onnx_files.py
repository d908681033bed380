"""Export a whole prediction for tests, without the checks and reports of `tools.export_onnx`."""

import json
from pathlib import Path

import torch
import yaml

from experiment import Experiment
from models.base import DenseModel
from structures import Size
from tools.export_onnx.full import full_graph


def export_whole(experiment: Experiment, model: DenseModel, size: Size, path: Path, dynamic: bool = False) -> Path:
    """Write an ONNX file of `predict_tensors`. dynamic: for images of any size."""
    import onnx

    graph = full_graph(model, size)
    shapes = {name: None for name in graph.inputs}
    if dynamic:
        shapes |= {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in graph.dynamic.items()}
    with torch.no_grad():
        program = torch.export.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamic_shapes=tuple(shapes.values()),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=20,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    exported.save(path)
    info = experiment.data.info
    metadata = {
        "format": "full",
        "task": info.task,
        "classes": info.classes,
        "preprocessing": {"size_divisor": model.size_divisor},
        "config": yaml.safe_dump(experiment.dump(), sort_keys=False),
    }
    written = onnx.load(path)
    assert {node.domain for node in written.graph.node} <= {"", "ai.onnx"}
    onnx.helper.set_model_props(written, {"denseup": json.dumps(metadata)})
    onnx.save(written, path)
    return path
