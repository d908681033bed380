"""The fault suite: shortened in `make test`, whole in `make faults`, which writes RELIABILITY.md from its counts."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Tally = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-faults", action="store_true", help="every fault; without it, a few of each kind")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `whole`, which start many processes, unless the whole suite was asked for."""
    if not config.getoption("--all-faults"):
        left_out = [item for item in items if item.get_closest_marker("whole")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def every(request: pytest.FixtureRequest) -> bool:
    """Whether the whole suite runs, and not its shortened form."""
    return bool(request.config.getoption("--all-faults"))


@pytest.fixture(scope="session")
def tally() -> Tally:
    """Call it as tally(chapter, what, tried=20, lost=0): a line of RELIABILITY.md. Lines of equal words are summed.

    chapter: heading of the table. what: what was done and what had to hold. tried: faults, inputs or cases. lost: those
    after which something was lost, wrong or unexplained. Call it before asserting that nothing was.
    """
    folder = os.environ.get("FAULT_TALLIES")

    def add(chapter: str, what: str, *, tried: int, lost: int) -> None:
        if folder:
            line = json.dumps({"chapter": chapter, "what": what, "tried": tried, "lost": lost})
            with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as file:
                file.write(line + "\n")

    return add
