"""The rows of a board: which are kept, which are left, doing them, and doing them again."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from errors import UserError
from runtime.changes import PLACES, changes
from runtime.run_folder import lock_folder
from tools.board.definition import Column
from tools.compare.comparison import check_environment, count_costs
from tools.compare.report import compare_repeat
from tools.compare.runs import DivergedError, Run, run_all
from workflow.environment import cpu_name
from workflow.results import write_result

Places = Sequence[Mapping[str, str]]  # see `run_places`
THREADS = 1  # of a run: so results do not depend on the number of cores
KEYS = {"seeds", "scores", "params", "macs", "commit", "cpu", "date", "command", "logs"}  # of a row


def read_rows(column: Column) -> dict[str, dict[str, Any]]:
    """The kept rows of a host, by name; a metric without a value is NaN. Rows with other seeds are not taken.

    Raises UserError if the file is damaged, or if its rows were made with other settings.
    """
    kept = _read(column)
    if kept is None:
        return {}
    wanted = {name: [run.experiment.seed for run in runs] for name, runs in _scored(column).items()}
    rows = {name: row for name, row in kept["rows"].items() if wanted.get(name) == row["seeds"]}
    for row in rows.values():
        row["scores"] = {
            metric: [math.nan if value is None else value for value in values]
            for metric, values in row["scores"].items()
        }
    return rows


def do_rows(
    column: Column, names: Sequence[str], places: Places, machine: dict[str, Any], write: Callable[[], None]
) -> None:
    """Do the rows that are not kept, and keep each as soon as its runs are finished; then call `write`.

    places: of runs that go on at a time. machine: device and libraries. A row that diverges is kept as such, and the
    others go on. Raises UserError, among others if kept rows were made by another device or library, and Interrupted.
    """
    kept = _read(column)
    if kept is not None and kept["machine"] != machine:
        what = f"the rows in {column.path} were made with {_words(kept['machine'])}"
        raise UserError(_words(machine), what, "use the same, or start another board with --root")
    check_environment(column.out, machine)
    waiting = {name: column.rows[name] for name in names if name not in read_rows(column)}
    if not waiting:
        return
    for runs in waiting.values():
        for run in runs:
            run.check_settings()
    costs = count_costs(column.comparison)

    def keep(_: Run | None = None) -> None:
        for name in [name for name, runs in waiting.items() if all(run.finished for run in runs)]:
            del waiting[name]
            _keep(column, name, {**_cost(column, name, costs), **_scores(column, name), "jobs": len(places)}, machine)
            write()

    with lock_folder(column.out, "another `out`", "another board", "another `out`"):
        write_result(column.out / "environment.json", machine)
        keep()
        while waiting:
            try:
                runs = [run for runs in waiting.values() for run in runs]
                run_all(runs, places, THREADS, keep)
            except DivergedError as error:
                name = next(name for name, runs in waiting.items() if error.run in runs)
                del waiting[name]
                found = {**_cost(column, name, costs), "scores": {}, "diverged": error.brief, "jobs": len(places)}
                _keep(column, name, found, machine)
                write()


def repeat_row(column: Column, name: str, places: Places, machine: dict[str, Any]) -> bool:
    """Do the runs of a kept row once more, elsewhere, and say for each whether all its numbers are equal.

    Returns whether all are. Raises UserError if the row is not kept, and Interrupted.
    """
    row = read_rows(column).get(name)
    if row is None or not row["scores"]:
        raise UserError(f"--again {name}", f"{column.name} has no such scores", "give a row that is finished")
    again = column.compare(column.out.parent / "again" / column.name)
    check_environment(again.out, machine)
    with lock_folder(again.out, "another `out`", "another board", "another `out`"):
        write_result(again.out / "environment.json", machine)
        runs = again.control if name == column.control else again.paired[name]
        run_all(runs, places, THREADS)
    unequal = 0
    for index, run in enumerate(runs):
        found = run.final_metrics()
        kept = {metric: values[index] for metric, values in row["scores"].items()}
        different = [metric for metric in found if not _same(found[metric], kept[metric])]
        unequal += bool(different)
        equal = len(found) - len(different)
        print(f"{column.name}, {run.name}: {equal} of {len(found)} numbers equal to the last digit")
    return not unequal


def _same(one: float, two: float) -> bool:
    return one == two or (math.isnan(one) and math.isnan(two))


def _words(machine: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items())


def _scored(column: Column) -> dict[str, Sequence[Run]]:
    return {**column.comparison.paired, column.control: column.comparison.control}


def _variant(column: Column, name: str) -> str:
    return column.host.baseline if name == column.control else name


def _cost(column: Column, name: str, costs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    cost = costs[_variant(column, name)]
    return {"params": cost["params"], "macs": cost["macs"]}


def _scores(column: Column, name: str) -> dict[str, Any]:
    runs = _scored(column)[name]
    final = [run.final_metrics() for run in runs]
    rates = [seconds for run in runs if (seconds := run.seconds_per_step()) is not None]
    found = {
        "scores": {metric: [values[metric] for values in final] for metric in final[0]},
        "seconds_per_step": statistics.median(rates) if rates else None,
    }
    if name == column.control:
        comparison = column.comparison
        found["repeat"] = compare_repeat(comparison.paired[comparison.baseline][0], comparison.repeat)
    return found


def _keep(column: Column, name: str, found: dict[str, Any], machine: dict[str, Any]) -> None:
    runs = column.rows[name]
    experiment = column.comparison.repeat.experiment
    row = {
        "seeds": [run.experiment.seed for run in _scored(column)[name]],
        **found,
        "cpu": cpu_name(),
        "date": date.today().isoformat(),
        "commit": ", ".join(sorted({run.commit() for run in runs})),
        "command": f"{column.command} --only {column.name} --rows '{name}'",
        "logs": f"{runs[0].folder.parent}/seed_*/log.jsonl",
    }
    kept = _read(column) or {
        "cfg": str(column.host.cfg),
        "overrides": column.overrides,
        "step": experiment.steps,
        "config": experiment.dump(),
        "machine": machine,
        "rows": {},
    }
    rows = kept["rows"] | {name: row}
    write_result(column.path, {**kept, "rows": {name: rows[name] for name in column.rows if name in rows}})


def _read(column: Column) -> dict[str, Any] | None:
    if not column.path.exists():
        return None
    try:
        kept: dict[str, Any] = json.loads(column.path.read_text())
        changed = changes(kept["config"], column.comparison.repeat.experiment)
        sound = isinstance(kept["machine"], dict) and all(row.keys() >= KEYS for row in kept["rows"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        changed, sound = [], False
    if not sound:
        raise UserError(column.path, "is damaged", "restore it, or remove it to do its rows again")
    for change in changed:
        if change.key not in PLACES | {"seed", "run_name"}:
            what = f"its rows were made with {change.old}"
            raise UserError(f"{column.path}: {change.key}={change.new}", what, "move the file away to do them again")
    return kept
