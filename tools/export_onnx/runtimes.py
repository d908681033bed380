"""What runs written files: onnxruntime, OpenVINO, and PyTorch for programs of torch.export. All on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

Case = dict[str, np.ndarray]


class Runtime(Protocol):
    """A file that is ready to run. name: of the library, with its version."""

    name: str

    def run(self, feeds: Case) -> Case:
        """The outputs, by name."""

    def values(self, feeds: Case, names: Sequence[str]) -> Case:
        """The values that nodes compute, by name: some of `nodes()`."""

    def nodes(self) -> dict[str, str]:
        """What computes each value, in the order of computation, by the value's name."""


def open_runtime(path: Path, outputs: Sequence[str]) -> Runtime:
    """Load the file with the library that its suffix stands for. outputs: their names, in order."""
    if path.suffix == ".pt2":
        return TorchProgram(path, outputs)
    return OnnxRuntime(path) if path.suffix == ".onnx" else OpenVino(path)


class OnnxRuntime:
    """An ONNX file in onnxruntime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._path = path
        self._session = _session(str(path))

    def run(self, feeds: Case) -> Case:
        """See Runtime."""
        return _run(self._session, feeds, [output.name for output in self._session.get_outputs()])

    def values(self, feeds: Case, names: Sequence[str]) -> Case:
        """See Runtime."""
        import onnx

        model = onnx.load(self._path)
        outputs = {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
        return _run(_session(model.SerializeToString()), feeds, names)

    def nodes(self) -> dict[str, str]:
        """See Runtime."""
        import onnx

        found: dict[str, str] = {}
        for node in onnx.load(self._path, load_external_data=False).graph.node:
            scopes = "".join(item.value for item in node.metadata_props if item.key == "namespace")
            modules = [part.split(":")[0] for part in scopes.split("/")][1:-1]
            place = f" in {modules[-1]}" if modules else ""
            found |= {name: f"{node.name} ({node.op_type}{place})" for name in node.output if name}
        return found


def _session(model: str | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, feeds: Case, names: Sequence[str]) -> Case:
    taken = {each.name for each in session.get_inputs()}
    values = session.run(list(names), {name: value for name, value in feeds.items() if name in taken})
    return dict(zip(names, values, strict=True))


class OpenVino:
    """An OpenVINO model, from an ONNX file: its tensors have the same names."""

    def __init__(self, path: Path) -> None:
        import openvino

        self.name = f"openvino {openvino.__version__}"
        self._path, self._core = path, openvino.Core()
        self._compiled = self._compile(self._core.read_model(path))

    def _compile(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # else bfloat16 on some CPUs

    def run(self, feeds: Case) -> Case:
        """See Runtime."""
        return {value.get_any_name(): np.array(found) for value, found in self._compiled(feeds).items()}

    def values(self, feeds: Case, names: Sequence[str]) -> Case:
        """See Runtime."""
        model = self._core.read_model(self._path)
        outputs = {name for output in model.outputs for name in output.names}
        model.add_outputs([name for name in names if name not in outputs])
        found = self._compile(model)(feeds)
        return {name: np.array(found[name]) for name in names}

    def nodes(self) -> dict[str, str]:
        """See Runtime."""
        found: dict[str, str] = {}
        for operation in self._core.read_model(self._path).get_ordered_ops():
            if operation.get_type_name() in ("Constant", "Result", "Parameter"):
                continue
            for output in operation.outputs():
                label = f"{operation.get_friendly_name()} ({operation.get_type_name()})"
                found |= dict.fromkeys(output.get_names(), label)
        return found


class TorchProgram:
    """A program of torch.export, read from its file."""

    def __init__(self, path: Path, outputs: Sequence[str]) -> None:
        self.name = f"torch {torch.__version__}"
        self._program, self._outputs = torch.export.load(path), outputs

    @torch.no_grad()
    def run(self, feeds: Case) -> Case:
        """See Runtime."""
        outputs = self._program.module()(*map(torch.from_numpy, feeds.values()))
        return {name: value.numpy() for name, value in zip(self._outputs, outputs, strict=True)}

    def values(self, feeds: Case, names: Sequence[str]) -> Case:
        """See Runtime."""
        return node_values(self._program, feeds, set(names))

    def nodes(self) -> dict[str, str]:
        """See Runtime."""
        nodes = [node for node in self._program.graph.nodes if node.op == "call_function"]
        return {node.name: f"{node.name} ({node.target})" for node in nodes}


@torch.no_grad()
def node_values(program: ExportedProgram, feeds: Case, names: set[str]) -> Case:
    """The values of some nodes of a program, by name; those that are no tensor are left out."""
    interpreter = _Recorder(program.module(check_guards=False))
    interpreter.names = names
    interpreter.run(*map(torch.from_numpy, feeds.values()))
    return interpreter.found


class _Recorder(torch.fx.Interpreter):
    """Runs a program and keeps the values of the nodes in `names`."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module)
        self.names: set[str] = set()
        self.found: Case = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """See Interpreter."""
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, Tensor):
            self.found[n.name] = value.detach().clone().numpy()
        return value
