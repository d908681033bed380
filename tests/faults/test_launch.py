"""The launcher itself: what the other tests here rely on."""

import os
import signal

import pytest

from tests.launch import run, start


def hang() -> None:
    import time

    time.sleep(600)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_command_ends_as_it_would_by_itself():
    done = run("train", "--cfg", "nowhere.yaml")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_a_killed_process_and_one_that_hangs_are_told():
    assert run("train", sabotage=[die]).codes == [-signal.SIGKILL]
    with pytest.raises(TimeoutError):
        start("train", sabotage=[hang]).wait(seconds=1)
