"""The operators of an ONNX file. Needs neither PyTorch nor a runtime."""

from collections.abc import Iterator
from typing import Any


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes of an ONNX graph, also those within loops and branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for part in [attribute.g, *attribute.graphs]:
                yield from nodes_of(part)


def custom_operators(model: Any) -> list[str]:
    """The operators that are not ONNX's own, at any depth: DOMAIN::NAME, sorted."""
    custom = {f"{node.domain}::{node.op_type}" for node in nodes_of(model.graph) if node.domain not in ("", "ai.onnx")}
    return sorted(custom | {f"{function.domain}::{function.name}" for function in model.functions})
