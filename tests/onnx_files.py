"""Export a whole prediction for tests, without the checks and reports of `tools.export_onnx`."""

import logging
from pathlib import Path

import torch
import yaml

from experiment import Experiment
from models.base import DenseModel
from structures import Size
from tools.export_onnx.full import full_graph
from workflow.onnx_metadata import Metadata


def metadata_of(experiment: Experiment, divisor: int) -> Metadata:
    """What a file of a whole prediction says of itself."""
    info = experiment.data.info
    return Metadata(
        format="full",
        task=info.task,
        model=experiment.model.name,
        upsampler=experiment.model.upsampler.name,
        classes=info.classes,
        things=info.things,
        max_depth=info.max_depth,
        preprocessing={"size_divisor": divisor},
        config=yaml.safe_dump(experiment.dump(), sort_keys=False),
        licence=None,
        sampling="grid_sample",
        opset=18,
        precision="fp32",
    )


def export_whole(experiment: Experiment, model: DenseModel, size: Size, path: Path, dynamic: bool = False) -> Path:
    """Write an ONNX file of `predict_tensors`. dynamic: for images of any size."""
    import onnx

    graph = full_graph(model, size)
    shapes = dict.fromkeys(graph.inputs)
    if dynamic:
        divisor = model.size_divisor
        shapes["images"] = {2: divisor * torch.export.Dim("height"), 3: divisor * torch.export.Dim("width")}
    logging.disable(logging.WARNING)  # under pytest, PyTorch's messages while it traces take most of the time
    with torch.no_grad():
        program = torch.export.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamic_shapes=tuple(shapes.values()),
            strict=False,
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=18,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    logging.disable(logging.NOTSET)
    exported.save(path)
    written = onnx.load(path)
    assert {node.domain for node in written.graph.node} <= {"", "ai.onnx"}
    onnx.helper.set_model_props(written, {"denseup": metadata_of(experiment, model.size_divisor).to_json()})
    onnx.save(written, path)
    return path
