"""Sinks at services: Weights & Biases, MLflow, trackio.

Each works in a thread of its own, so that neither an error nor a hang of a service stops or delays a run.
"""

import importlib
import json
import queue
import re
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml

from errors import one_line
from runtime.sinks.base import Sink
from storage import write_text

SERVICES = ("wandb", "mlflow", "trackio")
PROJECT = "denseup"
WAITING = 1000  # numbers and pictures that may wait for a service
CLOSING = 30.0  # seconds that a service gets at the end


class Service(Sink):
    """A service, called by a thread of its own in the order of the calls.

    After the first error it is left alone. What does not fit into the queue is left out.
    """

    def __init__(self, name: str, open_client: Callable[[], "Client"]) -> None:
        self._name = name
        self._waiting: queue.Queue[Callable[[Client], None] | None] = queue.Queue(WAITING)
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failed = self._full = False
        self._thread = threading.Thread(target=self._work, args=(open_client,), daemon=True, name=name)
        self._thread.start()

    def add_numbers(self, section: str, step: int, numbers: Mapping[str, float]) -> None:
        """Hand over the numbers as SECTION/NAME."""
        named = {f"{section}/{name}": value for name, value in numbers.items()}
        self._put(lambda client: client.numbers(named, step))

    def add_picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """Hand over the picture as pictures/NAME."""
        self._put(lambda client: client.picture(f"pictures/{one_line(name)}", picture, step))

    def close(self) -> None:
        """Wait until the service has all, but not longer than CLOSING seconds."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=CLOSING / 2)
        self._thread.join(CLOSING / 2)
        if self._thread.is_alive():
            self._problems.put(f"logging to {self._name}: it does not answer; what it lacks is in log.jsonl")

    def problems(self) -> list[str]:
        """Errors and what was left out."""
        found = []
        while not self._problems.empty():
            found.append(self._problems.get())
        return found

    def _put(self, call: Callable[["Client"], None]) -> None:
        try:
            if not self._failed:
                self._waiting.put_nowait(call)
        except queue.Full:
            if not self._full:
                self._problems.put(f"logging to {self._name}: it is too slow; part of the log is in log.jsonl alone")
            self._full = True

    def _work(self, open_client: Callable[[], "Client"]) -> None:
        try:
            client = open_client()
            while (call := self._waiting.get()) is not None:
                call(client)
            client.close()
        except BaseException as error:  # whatever a service does, SystemExit included
            self._failed = True
            what = one_line(f"{type(error).__name__}: {error}")[:200]
            self._problems.put(f"logging to {self._name} failed ({what}); the run goes on without it")


# --- the services ----------------------------------------------------------------------------------------------------


class Client(ABC):
    """A run at a service. What it raises ends the use of the service, not the run."""

    @abstractmethod
    def numbers(self, numbers: dict[str, float], step: int) -> None:
        """Show the numbers of a step."""

    @abstractmethod
    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Show a picture [H, W, 3] uint8, RGB."""

    @abstractmethod
    def close(self) -> None:
        """Send what is left."""


class _Wandb(Client):
    """wandb and trackio, which has the interface of wandb."""

    def __init__(self, module: ModuleType, **options: Any) -> None:
        self._module = module
        self._run = module.init(project=PROJECT, resume="allow", **options)

    def numbers(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self._run.log({name: self._module.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow(Client):
    def __init__(self, module: ModuleType, run_name: str, settings: Mapping[str, Any], ids: "_Ids") -> None:
        self._client = module.MlflowClient()
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self._run = ids.get("mlflow") or self._client.create_run(number, run_name=run_name).info.run_id
        ids.set("mlflow", self._run)
        self._client.log_dict(self._run, settings, "settings.yaml")

    def numbers(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, value, step=step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self._client.log_image(self._run, picture, key=re.sub(r"[^\w./ -]", "_", name), step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _Ids:
    """The names under which services know the run, kept in `sinks.json` so that a resumed run goes on there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sinks.json"

    def get(self, service: str) -> str | None:
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads(self._path.read_text()).get(service)
            return found if isinstance(found, str) else None
        return None

    def set(self, service: str, name: str) -> None:
        known = {other: found for other in SERVICES if (found := self.get(other))}
        write_text(self._path, json.dumps({**known, service: name}, indent=2) + "\n")


def open_client(name: str, folder: Path) -> Client:
    """Open the run of `folder` at the service `name`."""
    module, ids = importlib.import_module(name), _Ids(folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    if name == "mlflow":
        return _Mlflow(module, folder.name, settings, ids)
    if name == "trackio":
        return _Wandb(module, name=folder.name, config=settings)
    known = ids.get("wandb") or secrets.token_hex(4)
    ids.set("wandb", known)
    return _Wandb(module, id=known, name=folder.name, config=settings, dir=str(folder))
