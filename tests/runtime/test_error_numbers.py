"""What every error number of the operating system does to a save, a resume and a lock: the table in errors.py."""

import errno
import fcntl
import os
import re
import stat
from pathlib import Path

import pytest
import torch

from errors import (
    ABSENT,
    DISK_ERRORS,
    LOCKED,
    NO_FOLDER_FSYNC,
    NO_FSYNC,
    NO_LINKS,
    NO_LOCKS,
    UNREADABLE,
    UserError,
    exit_code,
)
from runtime.checkpoint import Checkpoints, load_checkpoint
from runtime.log import RunLog
from runtime.run_folder import lock_folder
from storage import write_text

# Each with the other table of the same call, and some numbers that are on no table.
OTHERS = {errno.ENAMETOOLONG, errno.ETXTBSY, errno.ELOOP, errno.EBUSY, errno.ENOMEM, errno.EMFILE}
ALL = sorted({*DISK_ERRORS, *NO_FOLDER_FSYNC, *NO_FSYNC, *NO_LINKS, *NO_LOCKS, *LOCKED, *ABSENT, *UNREADABLE, *OTHERS})


def name(number: int) -> str:
    return errno.errorcode[number]


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def state(step: int) -> dict:
    return {"config": {"a": 1}, "step": step, "model": {"w": torch.arange(6.0) + step}, "ema": None}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state(1), is_best=True)
    return checkpoints


def saves(checkpoints: Checkpoints, number: int) -> bool:
    """Whether a save succeeds. If it does not, its error says why, and the checkpoint before is there."""
    problem = None
    try:
        checkpoints.save(state(2), is_best=True)
    except UserError as error:
        problem = str(error)
    if problem is None:
        paths = checkpoints.last, checkpoints.previous, checkpoints.best
        assert [load_checkpoint(path)["step"] for path in paths] == [2, 1, 2]
        return True
    assert f"cannot be written ([Errno {number}] {os.strerror(number)}" in problem
    assert "; the previous checkpoint is intact" in problem
    assert load_checkpoint(checkpoints.last)["step"] in (1, 2)
    return False


@pytest.mark.parametrize("number", ALL, ids=name)
def test_fsync_of_a_folder(number, checkpoints, monkeypatch):
    before = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: fail(number) if is_folder(file) else before(file))
    assert saves(checkpoints, number) == (number in NO_FOLDER_FSYNC)


@pytest.mark.parametrize("number", ALL, ids=name)
def test_opening_a_folder_to_flush_it(number, checkpoints, monkeypatch):
    before = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: fail(number) if os.path.isdir(path) else before(path, *rest))
    assert saves(checkpoints, number) == (number in NO_FOLDER_FSYNC)


@pytest.mark.parametrize("number", ALL, ids=name)
def test_fsync_of_a_file(number, checkpoints, monkeypatch):
    before = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: before(file) if is_folder(file) else fail(number))
    assert saves(checkpoints, number) == (number in NO_FSYNC)


@pytest.mark.parametrize("number", ALL, ids=name)
def test_fsync_of_a_text(number, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: fail(number))
    if number in NO_FSYNC:
        write_text(path, "new")
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            write_text(path, "new")
    assert path.read_text() == ("new" if number in NO_FSYNC else "old")
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize("number", ALL, ids=name)
def test_a_hard_link(number, checkpoints, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: fail(number))
    assert saves(checkpoints, number) == (number in NO_LINKS)


@pytest.mark.parametrize("number", ALL, ids=name)
def test_a_renaming(number, checkpoints, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: fail(number))
    monkeypatch.setattr(Path, "replace", lambda *_: fail(number))
    assert not saves(checkpoints, number)


def lock(folder: Path) -> None:
    lock_folder(folder, "another output_dir", "another run", "another run_name").close()


@pytest.mark.parametrize("number", sorted(NO_LOCKS), ids=name)
def test_a_file_system_without_locks_is_told_in_one_line_and_used(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "lockf", lambda *_: fail(number))
    lock(tmp_path)
    [warning] = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: {tmp_path}: its file system has no locks ({os.strerror(number)})")


@pytest.mark.parametrize("number", sorted({*ALL} - NO_LOCKS), ids=name)
def test_only_a_lock_that_another_process_holds_means_another_run(number, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", lambda *_: fail(number))
    expected = (
        "another run is using this folder; stop it" if number in LOCKED else f"cannot be locked ([Errno {number}]"
    )
    with pytest.raises(UserError, match=re.escape(expected)):
        lock(tmp_path)


@pytest.mark.parametrize("number", ALL, ids=name)
def test_a_folder_that_cannot_be_looked_into_does_not_pass_for_a_new_run(number, checkpoints, monkeypatch):
    before = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: fail(number) if Path(path).suffix == ".pt" else before(path))
    if number in ABSENT:
        assert not checkpoints.exist()
        assert checkpoints.load() is None
        return
    for look in (checkpoints.exist, checkpoints.load):
        with pytest.raises(UserError, match="may be there or not"):
            look()


@pytest.mark.parametrize("number", ALL, ids=name)
def test_only_a_checkpoint_whose_data_are_lost_gives_way_to_an_older_one(number, checkpoints, monkeypatch, capsys):
    checkpoints.save(state(2))
    before = Path.open

    def unreadable(path: Path, *words: object) -> object:
        return fail(number) if path == checkpoints.last else before(path, *words)

    monkeypatch.setattr(Path, "open", unreadable)
    if number in UNREADABLE:
        assert checkpoints.load()[0]["step"] == 1
        return
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.load()


@pytest.mark.parametrize("number", ALL, ids=name)
def test_an_error_that_nobody_has_caught_is_the_disks_or_a_defect(number):
    assert exit_code(OSError(number, "")) == (2 if number in DISK_ERRORS else 1)


def test_no_number_of_a_disk_that_takes_nothing_counts_as_a_call_that_is_not_offered():
    assert not DISK_ERRORS & (NO_FSYNC | NO_FOLDER_FSYNC | NO_LINKS | NO_LOCKS | LOCKED | ABSENT)
    assert not LOCKED & NO_LOCKS


def test_a_name_that_is_too_long_is_told_with_advice_that_helps(tmp_path):
    with pytest.raises(UserError, match="choose another run_name or another output_dir, a shorter one"):
        lock(tmp_path / ("x" * 300))


def test_a_picture_whose_name_is_too_long_leaves_a_way_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: fail(errno.ENAMETOOLONG))
    log = RunLog.__new__(RunLog)
    log._folder = tmp_path
    with pytest.raises(UserError, match=r"again with evaluation\.pictures=0"), log._writing():
        (tmp_path / "x").mkdir()
