"""Files of whole predictions for tests."""

from pathlib import Path

from experiment import Experiment
from models.base import DenseModel
from structures import Size
from tools.export_onnx.full import full_graph
from tools.export_onnx.metadata import describe_model
from tools.export_onnx.write import export
from workflow.onnx_metadata import Metadata


def metadata_of(experiment: Experiment, model: DenseModel) -> Metadata:
    """What a file of a whole prediction says of itself."""
    return describe_model(experiment, model, Path("model.pt"), whole=True, sampling="gather", precision="fp32")


def export_whole(experiment: Experiment, model: DenseModel, size: Size, path: Path, dynamic: bool = False) -> Path:
    """Write a file of a whole prediction, without the proof of `tools.export_onnx`: the tests prove it otherwise."""
    graph = full_graph(model.requires_grad_(False), size)
    export(graph, metadata_of(experiment, model), path, [], dynamic=dynamic)
    return path
