"""What a board compares: its hosts, upsamplers, seeds and metrics."""

from argparse import Namespace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from config import Schema, read_config, validate
from errors import UserError, suggest
from tools.compare.comparison import lower_is_better, make_comparison
from tools.compare.runs import Comparison, Run
from upsamplers import NAMES


class Host(Schema):
    """A model in which upsamplers are compared. title, note: of its section. upsamplers: default: all.

    seeds: number of seeds of each upsampler, from first_seed. metrics: the first is judged, the others are shown.
    pilot: a report of tools.compare of the same host, whose spread and speed say what the board can show in what time.
    """

    title: str
    note: str = ""
    cfg: Path
    overrides: tuple[str, ...] = ()
    upsamplers: Annotated[tuple[str, ...], Field(min_length=2)] = NAMES
    baseline: str
    seeds: PositiveInt
    first_seed: NonNegativeInt = 0
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    pilot: Path | None = None


class Board(Schema):
    """All hosts, in order. page: the document. results: folder of what is kept. out: folder of the runs.

    costs: files of tools.benchmark; the charts use the first. speed: see `forecast`. overrides: KEY=VALUE for all runs.
    """

    title: str
    note: str = ""
    page: Path
    results: Path
    out: Path
    costs: tuple[Path, ...] = ()
    speed: Path | None = None
    overrides: tuple[str, ...] = ()
    hosts: Annotated[dict[str, Host], Field(min_length=1)]


class Column:
    """A host of a board with its comparison, which has a row for every upsampler and one for the baseline again.

    command: of the board, without options. Raises UserError if the host is invalid; reads no images.
    """

    def __init__(self, board: Board, name: str, root: Path, command: str) -> None:
        self.name, self.host, self.command = name, board.hosts[name], command
        self.path = root / board.results / f"{name}.json"
        self.out = board.out / name
        self.overrides = [*board.overrides, *self.host.overrides]
        self.comparison = self.compare(self.out)
        experiment = self.comparison.repeat.experiment
        where = f"{self.host.cfg}: metric"
        self.lower_is_better = {metric: lower_is_better(experiment, metric, where) for metric in self.host.metrics}

    @property
    def control(self) -> str:
        """The name of the row of the baseline with other seeds."""
        return f"{self.host.baseline} again"

    @cached_property
    def rows(self) -> dict[str, list[Run]]:
        """The runs of every row, in the order in which they are done; the baseline and its control come first."""
        found, baseline = self.comparison, self.host.baseline
        first = {baseline: found.paired[baseline], self.control: [*found.control, found.repeat]}
        return first | found.paired

    def compare(self, out: Path) -> Comparison:
        """The comparison of all upsamplers, with its runs in `out`."""
        host = self.host
        arguments = Namespace(
            cfg=host.cfg,
            variants=None,
            upsamplers=",".join(host.upsamplers),
            baseline=host.baseline,
            seeds=host.seeds,
            first_seed=host.first_seed,
            metric=None,  # checked below, and by name
            out=out,
            overrides=self.overrides,
            jobs=1,
            threads=1,
        )
        return make_comparison(arguments)


def read_board(path: Path) -> Board:
    """Read the definition of a board. Raises UserError if it is invalid."""
    return validate(Board, read_config(path), path)


def choose(option: str, wanted: str | None, known: list[str]) -> list[str]:
    """The names `A,B` that an option wants; all if it is not given. Raises UserError for an unknown one."""
    names = known if wanted is None else wanted.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name or wanted}", "is not on this board", suggest(name, known))
    return names
