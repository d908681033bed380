"""What a run folder holds: settings, log, results, pictures, and what the model costs."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from config.plain_yaml import parse_file
from errors import UserError
from experiment import make_experiment
from models.cost import complexity, shapes_only

NAMES = ("run_name", "output_dir")  # settings that always differ and say nothing


@dataclass(frozen=True)
class Run:
    """A run folder. name: for people, unique on the page. config: as in config.yaml. log: the records of log.jsonl.

    result: of the best evaluation, results.json; {}: the run has not been evaluated.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    log: list[dict[str, Any]]
    result: dict[str, Any]

    def series(self, section: str) -> dict[str, tuple[list[float], list[float]]]:
        """By name, the steps and values of the numbers in a section of the log, "train" or "val"."""
        found: dict[str, tuple[list[float], list[float]]] = {}
        for line in self.log:
            if line.get("section") == section:
                for name, value in line.items():
                    if name not in ("step", "section") and isinstance(value, int | float):
                        steps, values = found.setdefault(name, ([], []))
                        steps.append(line["step"])
                        values.append(value)
        return found

    def median(self, name: str) -> float | None:
        """The median of a number that training logs; None without any."""
        values = self.series("train").get(name, ([], []))[1]
        return statistics.median(values) if values else None

    @cached_property
    def metric(self) -> tuple[str, bool] | None:
        """The metric that selects the best checkpoint, and whether lower is better; None without result."""
        names = list(self.result.get("metrics", {}))
        try:
            name, lower = make_experiment(self.config, str(self.folder / "config.yaml")).in_steps().best_metric()
        except UserError:  # the data are elsewhere now
            return (names[0], False) if names else None
        return (name, lower) if name in names else None

    @cached_property
    def cost(self) -> dict[str, Any] | str:
        """Parameters and MACs, as tools.complexity counts them; or why they cannot be counted."""
        try:
            experiment = make_experiment(self.config, str(self.folder / "config.yaml"))
            with shapes_only():
                model = experiment.build_model(pretrained=False)
            return complexity(model, experiment.padded_input(model))
        except (UserError, ValueError) as error:
            return str(error)

    def pictures(self) -> dict[str, Path]:
        """The pictures of the last evaluation that drew some, by image."""
        folders = sorted((self.folder / "pictures").glob("step_*"))
        return {path.stem: path for path in sorted(folders[-1].glob("*.png"))} if folders else {}


def read_runs(folders: list[Path]) -> list[Run]:
    """Read run folders, each once. Raises UserError if one is no run or if its files are damaged."""
    unique = list({folder.resolve(): folder for folder in folders}.values())
    short = [folder.resolve().name for folder in unique]
    names = [
        name if short.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for folder, name in zip(unique, short, strict=True)
    ]
    names = [name if names.count(name) == 1 else str(folder) for folder, name in zip(unique, names, strict=True)]
    return [_read(folder, name) for folder, name in zip(unique, names, strict=True)]


def _read(folder: Path, name: str) -> Run:
    config, log = folder / "config.yaml", folder / "log.jsonl"
    for path in (config, log):
        if not path.is_file():
            raise UserError(folder, f"is no run, since it has no {path.name}", "name the folder of a run of train.py")
    settings = parse_file(config.read_text(encoding="utf-8", errors="replace"), str(config))
    if not isinstance(settings, dict):
        raise UserError(config, "is not the configuration of a run", "name another run")
    result = folder / "results.json"
    try:
        content = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    except ValueError:
        raise UserError(result, "is not JSON", "remove it, or write it again with eval.py --json") from None
    if content and not (isinstance(content, dict) and {"task", "dataset", "metrics", "per_class"} <= content.keys()):
        raise UserError(result, "is no result of eval.py", "remove it, or write it again with eval.py --json")
    return Run(folder, name, settings, _records(log), content or {})


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a line that a crash has cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def flat(settings: Any, key: str = "") -> dict[str, Any]:
    """Settings by dotted key, without those that only name the run."""
    if isinstance(settings, Mapping) and settings:
        parts = [flat(value, f"{key}.{name}" if key else str(name)) for name, value in settings.items()]
        return {name: value for part in parts for name, value in part.items()}
    if isinstance(settings, list) and any(isinstance(item, Mapping) for item in settings):
        return flat(dict(enumerate(settings)), key)
    return {} if key in NAMES else {key: settings}
