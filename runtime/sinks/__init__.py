"""Where a run shows its numbers and pictures besides `log.jsonl`."""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from errors import UserError
from runtime.sinks.base import Sink
from runtime.sinks.files import Board, Csv
from runtime.sinks.services import SERVICES, Service, open_client

SinkName = Literal["tensorboard", "csv", "wandb", "mlflow", "trackio"]


def require_installed(names: Sequence[SinkName]) -> None:
    """Raise UserError if a service's package is missing."""
    for name in names:
        if name in SERVICES and importlib.util.find_spec(name) is None:
            advice = f"install it (pip install {name}) or remove it from logging.sinks"
            raise UserError("logging.sinks", f"the package {name} is not installed", advice)


def open_sinks(
    names: Sequence[SinkName],
    folder: Path,
    purge_step: int,
    kept: Sequence[Mapping[str, Any]],
) -> list[Sink]:
    """Open the sinks of the run in `folder`, which holds its settings, `config.yaml`.

    kept: lines of `log.jsonl` from an earlier start.

    Raises UserError if a package is missing, OSError if the folder cannot be written.
    """
    require_installed(names)
    kept = [line for line in kept if line["section"] != "note"]
    opened: list[Sink] = []
    for name in names:
        match name:
            case "tensorboard":
                opened.append(Board(folder, purge_step, kept))
            case "csv":
                opened.append(Csv(folder, kept))
            case _:
                opened.append(Service(name, partial(open_client, name, folder)))
    return opened
