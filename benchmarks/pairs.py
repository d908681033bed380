"""Speed of two ways to do the same work, measured in turns in one process, and the goal that we have for it."""

import datetime
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from workflow.environment import cpu_name

Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One comparison. Times are medians in seconds; ratio: peer's time divided by ours: above 1 we are faster."""

    work: str
    peer: str
    ours_s: float
    peer_s: float | None = None  # None: the peer is not installed
    ratio: float | None = None
    goal: float | None = None  # of the ratio

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None if it was not measured or there is none."""
        return None if self.goal is None or self.ratio is None else self.ratio >= self.goal


def seconds(work: Work) -> float:
    """The time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    work: str, peer: str, ours: Work, theirs: Work | None, *, goal: float | None = None, rounds: int = 7
) -> Row:
    """Time both in turns, so that a busy moment of the machine affects both. The first round warms up.

    The ratio is the median of the rounds' ratios. theirs: None if the peer is not installed.
    """
    times = [(seconds(ours), seconds(theirs) if theirs else float("nan")) for _ in range(rounds + 1)][1:]
    our_times, their_times = (list(column) for column in zip(*times, strict=True))
    return row_of(work, peer, our_times, their_times if theirs else None, goal=goal)


def row_of(
    work: str, peer: str, ours: Sequence[float], theirs: Sequence[float] | None, *, goal: float | None = None
) -> Row:
    """The comparison of times that were taken in turns; theirs: None if the peer is not installed."""
    if theirs is None:
        return Row(work, peer, statistics.median(ours), goal=goal)
    ratio = statistics.median(their_time / our_time for our_time, their_time in zip(ours, theirs, strict=True))
    return Row(work, peer, statistics.median(ours), statistics.median(theirs), ratio, goal)


def record(rows: list[Row], **setting: Any) -> dict[str, Any]:
    """What a comparison writes as JSON."""
    about = {"device": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    found = [asdict(row) | {"is_met": row.is_met} for row in rows]
    return {"date": str(datetime.date.today()), **about, "setting": setting, "rows": found}


def publish(rows: list[Row], file: Path | None, **setting: Any) -> None:
    """Print the comparisons as a table and, if a file is given, write them as JSON."""
    for row in rows:
        times = f"{row.ours_s:.3f} s" if row.peer_s is None else f"{row.ours_s:.3f} s against {row.peer_s:.3f} s"
        ratio = f"{row.peer} is not installed" if row.ratio is None else f"{row.ratio:.2f} times as fast as {row.peer}"
        goal = "" if row.is_met is None else f" (goal {row.goal:g}: {'met' if row.is_met else 'not met'})"
        print(f"{row.work}: {times}, {ratio}{goal}")
    if file is not None:
        file.write_text(json.dumps(record(rows, **setting), indent=2) + "\n")
