"""Checkpoints cut, flipped and interrupted at every place, and full disks: the last good one is always there."""

import builtins
import errno
import io
import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from errors import UserError
from runtime import checkpoint as module
from runtime.checkpoint import Checkpoints, load_checkpoint
from tests.conftest import TINY, assert_same, logged, weights
from tests.launch import Done, run

CHAPTER = "Checkpoints and disks"
CFG = "configs/small/seg.yaml"


def state(step: int) -> dict:
    return {"config": {"a": 1}, "step": step, "model": {"w": torch.arange(6.0) + step}, "ema": None}


@pytest.fixture
def saved(tmp_path) -> Checkpoints:
    """Checkpoints of steps 1 (previous, best) and 2 (last)."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state(1), is_best=True)
    checkpoints.save(state(2))
    return checkpoints


def refused_for_the_one_before(checkpoints: Checkpoints, capsys: pytest.CaptureFixture) -> bool:
    """Whether the last checkpoint, damaged, is refused and the previous one taken and named."""
    try:
        load_checkpoint(checkpoints.last)
    except UserError as error:
        refused = str(checkpoints.last) in str(error)
    else:
        return False
    found = Checkpoints(checkpoints.folder).load()
    out = capsys.readouterr().out
    return refused and found[0]["step"] == 1 and f"using {checkpoints.previous}, of step 1" in out


def test_cut_at_every_byte(saved, every, tally, capsys):
    whole = saved.last.read_bytes()
    lengths = range(0, len(whole), 1 if every else 7)
    lost = []
    for length in lengths:
        saved.last.write_bytes(whole[:length])
        if not refused_for_the_one_before(saved, capsys):
            lost.append(length)
    what = "a checkpoint cut after any number of its bytes: refused, the one before taken and named"
    tally(CHAPTER, what, tried=len(lengths), lost=len(lost))
    assert not lost


def test_flipped_bits(saved, every, tally, capsys):
    whole = bytearray(saved.last.read_bytes())
    bits = random.Random(0).sample(range(8 * len(whole)), 1000 if every else 100)
    lost = []
    for bit in bits:
        whole[bit // 8] ^= 1 << bit % 8
        saved.last.write_bytes(whole)
        if not refused_for_the_one_before(saved, capsys):
            lost.append(bit)
        whole[bit // 8] ^= 1 << bit % 8
    what = "one random bit of a checkpoint flipped: refused, the one before taken and named"
    tally(CHAPTER, what, tried=len(bits), lost=len(lost))
    assert not lost


# --- a save that fails, or is killed, anywhere ------------------------------------------------------------------------

CALLS = ("fsync", "replace", "link", "unlink", "open", "mkdir")


class Trouble:
    """Does `act` instead of the n-th call of one of os's functions that change a disk. count: calls so far."""

    def __init__(self, place: int, act: Callable[[], None]) -> None:
        self.place, self.act, self.count = place, act, 0

    def wrap(self, call: Callable) -> Callable:
        def wrapped(*arguments: object, **options: object) -> object:
            self.count += 1
            if self.count == self.place:
                self.act()
            return call(*arguments, **options)

        return wrapped


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def troubled(monkeypatch: pytest.MonkeyPatch, trouble: Trouble) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, trouble.wrap(getattr(os, name)))
        patch.setattr(io, "open", trouble.wrap(io.open))  # that of pathlib
        yield


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Within, no file of this process can grow beyond `size` bytes: as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def is_whole(checkpoints: Checkpoints, before: bytes) -> bool:
    """Whether the last checkpoint of before is there byte for byte, and the newest there is can be loaded."""
    kept = [path for path in (checkpoints.last, checkpoints.previous) if path.exists() and path.read_bytes() == before]
    found = Checkpoints(checkpoints.folder).load()
    return bool(kept) and found[0]["step"] in (2, 3) and found[1] == checkpoints.last


def goes_on(checkpoints: Checkpoints) -> bool:
    """Whether a later save succeeds and leaves nothing but checkpoints behind."""
    resumed = Checkpoints(checkpoints.folder)
    resumed.load()
    resumed.save(state(4))
    steps = [load_checkpoint(path)["step"] for path in (resumed.last, resumed.previous, resumed.best)]
    names = sorted(os.listdir(resumed.folder))
    return steps[0] == 4 and steps[1] in (2, 3) and names == ["best.pt", "last.pt", "previous.pt"]


@pytest.fixture
def restore(saved) -> Callable[[], Checkpoints]:
    """Put the two checkpoints back as they were."""
    copy = saved.folder.with_name("copy")
    shutil.copytree(saved.folder, copy)

    def again() -> Checkpoints:
        shutil.rmtree(saved.folder)
        shutil.copytree(copy, saved.folder)
        checkpoints = Checkpoints(saved.folder)
        checkpoints.load()
        return checkpoints

    return again


def places(monkeypatch: pytest.MonkeyPatch, restore: Callable[[], Checkpoints], linkless: bool) -> range:
    """The numbers of all calls of one save."""
    trouble = Trouble(0, die)
    checkpoints = restore()
    with without_links(monkeypatch, linkless), troubled(monkeypatch, trouble):
        checkpoints.save(state(3), is_best=True)
    assert trouble.count >= 10
    return range(1, trouble.count + 1)


@contextmanager
def without_links(monkeypatch: pytest.MonkeyPatch, linkless: bool) -> Iterator[None]:
    with monkeypatch.context() as patch:
        if linkless:
            patch.setattr(os, "link", lambda *_: fail(errno.EPERM))
        yield


@pytest.mark.parametrize("linkless", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_call_of_a_save(restore, monkeypatch, tally, capsys, number, linkless):
    lost, numbers = [], places(monkeypatch, restore, linkless)
    for place in numbers:
        checkpoints = restore()
        before = checkpoints.last.read_bytes()
        error = ""
        with without_links(monkeypatch, linkless), troubled(monkeypatch, Trouble(place, partial(fail, number))):
            try:
                checkpoints.save(state(3), is_best=True)
            except UserError as problem:
                error = str(problem)
        # What is not needed may fail without an error: then the save is done.
        sound = os.strerror(number) in error or Checkpoints(checkpoints.folder).load()[0]["step"] == 3
        if not (sound and is_whole(checkpoints, before) and goes_on(checkpoints)):
            lost.append(place)
    what = "an error of the disk at any opening, flush, link, renaming or removal of a save: one error, nothing lost"
    tally(CHAPTER, what, tried=len(numbers), lost=len(lost))
    assert not lost


def killed(checkpoints: Checkpoints, prepare: Callable[[], None]) -> int:
    """The signal that ended a process that saved after `prepare`."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            checkpoints.save(state(3), is_best=True)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("linkless", [False, True])
def test_a_kill_at_any_call_of_a_save(restore, monkeypatch, tally, linkless):
    lost, numbers = [], places(monkeypatch, restore, linkless)
    for place in numbers:
        checkpoints = restore()
        before = checkpoints.last.read_bytes()
        with without_links(monkeypatch, linkless), troubled(monkeypatch, Trouble(place, die)):
            code = killed(checkpoints, lambda: None)
        if not (code == -signal.SIGKILL and is_whole(checkpoints, before) and goes_on(checkpoints)):
            lost.append(place)
    what = "a process killed at any opening, flush, link, renaming or removal of a save: the checkpoint before is whole"
    tally(CHAPTER, what, tried=len(numbers), lost=len(lost))
    assert not lost


def test_a_disk_that_is_full_after_any_byte(restore, every, tally):
    size, lost = restore().last.stat().st_size, []
    lengths = range(0, size, 1 if every else 97)
    for length in lengths:
        checkpoints = restore()
        before = checkpoints.last.read_bytes()
        with files_limited_to(length):
            try:
                checkpoints.save(state(3), is_best=True)
                error = ""
            except UserError as problem:
                error = str(problem)
        sound = "cannot be written" in error and checkpoints.last.read_bytes() == before
        if not (sound and is_whole(checkpoints, before) and goes_on(checkpoints)):
            lost.append(length)
    what = "no space left after any byte of a checkpoint: one error, the one before intact byte for byte"
    tally(CHAPTER, what, tried=len(lengths), lost=len(lost))
    assert not lost


def die_beyond(size: int) -> None:
    """Be killed by the kernel in the write that makes a file longer than `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_kill_in_any_write_of_a_save(restore, every, tally):
    size, lost = restore().last.stat().st_size, []
    lengths = range(0, size, 5 if every else 197)
    for length in lengths:
        checkpoints = restore()
        before = checkpoints.last.read_bytes()
        code = killed(checkpoints, partial(die_beyond, length))
        whole = checkpoints.last.read_bytes() == before and is_whole(checkpoints, before)
        if not (code == -signal.SIGXFSZ and whole and goes_on(checkpoints)):
            lost.append(length)
    what = "a process killed in the write of any byte of a checkpoint: the one before intact byte for byte"
    tally(CHAPTER, what, tried=len(lengths), lost=len(lost))
    assert not lost


def test_a_disk_that_cannot_read_or_clean_up(saved, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: fail(errno.EIO))
        patch.setattr(module.Path, "unlink", lambda *_, **__: fail(errno.EROFS))
        with pytest.raises(UserError, match="Input/output error"):
            saved.save(state(3))
    before = module._digest

    def unreadable(file: io.BufferedReader, length: int) -> bytes:
        return fail(errno.EIO) if file.name == str(saved.last) else before(file, length)

    monkeypatch.setattr(module, "_digest", unreadable)
    assert saved.load()[0]["step"] == 1
    assert f"{saved.last} cannot be read (Input/output error)" in capsys.readouterr().out


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(scenes) -> list[str]:
    return [*TINY, f"data.root={scenes}/ADEChallengeData2016"]


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run("train", "--cfg", CFG, *options, f"output_dir={folder}")
    assert done.code == 0, done.err
    return folder / "seg"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of its own of 16 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def ended_in_one_line(done: Done) -> bool:
    return done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1 and "; " in done.err


def nothing_is_damaged(folder: Path) -> bool:
    """Whether all checkpoints that a run has left can be loaded."""
    return all(load_checkpoint(path) for path in folder.glob("checkpoints/*.pt"))


def ends_like(undisturbed: Path, folder: Path, done: Done) -> bool:
    """Whether a run that was finished by `done` left what the undisturbed one did."""
    if done.code != 0:
        return False
    assert_same(weights(folder), weights(undisturbed))
    for section, key in (("train", "loss"), ("val", "mIoU")):
        ours, theirs = ([(line["step"], line[key]) for line in logged(run, section)] for run in (folder, undisturbed))
        assert ours == theirs
    names = ("results.json", "config.yaml")
    assert all((folder / name).exists() for name in names)
    pictures, expected = ({path.name for path in run.rglob("pictures/**/*.png")} for run in (folder, undisturbed))
    return pictures == expected


def test_a_full_disk_ends_a_run_in_one_line(options, undisturbed, small_disk, every, tally):
    needed = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())
    room = 16 * 2**20 - needed
    assert room > 0
    tries, lost = (25 if every else 1), []
    for number in range(tries):
        left = needed * (number + 1) // (tries + 1)  # bytes, of all that the run will write
        (small_disk / "filler").write_bytes(bytes(16 * 2**20 - left))
        words = ["--cfg", CFG, *options, f"output_dir={small_disk}"]
        done = run("train", *words)
        folder = small_disk / "seg"
        sound = ended_in_one_line(done) and nothing_is_damaged(folder)
        (small_disk / "filler").unlink()
        again = run("train", *words)
        if not (sound and ends_like(undisturbed, folder, again)):
            lost.append((left, done, again))
        shutil.rmtree(folder)
    what = "a disk full at some moment of a run: one line, exit code 2; with space again the command ends bit-equal"
    tally(CHAPTER, what, tried=tries, lost=len(lost))
    assert not lost


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.whole
def test_a_limit_on_file_sizes_ends_a_run_in_one_line(options, undisturbed, tmp_path, tally):
    size = (undisturbed / "checkpoints/last.pt").stat().st_size
    tries, lost = 10, []
    for number in range(tries):
        limit = size * (number + 1) // (tries + 1)
        words = ["--cfg", CFG, *options, f"output_dir={tmp_path}", f"run_name=limit{number}"]
        done = run("train", *words, sabotage=[partial(limit_files, limit)])
        folder = tmp_path / f"limit{number}"
        sound = ended_in_one_line(done) and nothing_is_damaged(folder)
        again = run("train", *words)
        if not (sound and ends_like(undisturbed, folder, again)):
            lost.append((limit, done, again))
    what = "files that may not hold a whole checkpoint: one line, exit code 2; without the limit the run ends bit-equal"
    tally(CHAPTER, what, tried=tries, lost=len(lost))
    assert not lost


def full_for(part: str, after: int) -> None:
    """Let files with `part` in their path be on a full disk, from the (after + 1)-th opening for writing on."""
    opened = 0
    plain = io.open

    def open_or_full(file: object, mode: str = "r", *arguments: object, **words: object) -> object:
        nonlocal opened
        if part in str(file) and set(mode) & set("wax+"):
            opened += 1
            if opened > after:
                return plain("/dev/full", mode, *arguments, **words)
        return plain(file, mode, *arguments, **words)

    io.open = builtins.open = open_or_full


FILES = ("config.yaml", "log.jsonl", "tfevents", "pictures/", "results.json")


@pytest.mark.whole
def test_a_disk_full_for_one_file_damages_nothing(options, undisturbed, tmp_path, tally):
    cases = [(part, after) for part in FILES for after in (0, 1, 3)]
    lost, tried = [], 0
    for number, (part, after) in enumerate(cases):
        words = ["--cfg", CFG, *options, f"output_dir={tmp_path}", f"run_name=full{number}"]
        folder = tmp_path / f"full{number}"
        done = run("train", *words, sabotage=[partial(full_for, part, after)])
        if done.code == 0 and after:  # not opened so often
            continue
        tried += 1
        named = part.strip("/") in done.err or str(folder) in done.err
        sound = ended_in_one_line(done) and named and "No space left" in done.err and nothing_is_damaged(folder)
        again = run("train", *words)
        if not (sound and ends_like(undisturbed, folder, again)):
            lost.append((part, after, done, again))
    what = "no space for settings, log, TensorBoard events, pictures or results: one line, exit code 2, nothing damaged"
    tally(CHAPTER, what, tried=tried, lost=len(lost))
    assert not lost


@pytest.mark.whole
def test_settings_cut_short_do_not_stop_a_run(options, undisturbed, tmp_path, tally):
    whole = (undisturbed / "config.yaml").read_text()
    lengths = range(0, len(whole), len(whole) // 20)
    folder, lost = tmp_path / "seg", []
    shutil.copytree(undisturbed, folder)
    for length in lengths:
        (folder / "config.yaml").write_text(whole[:length])
        done = run("train", "--cfg", CFG, *options, f"output_dir={tmp_path}")
        if not (done.code == 0 and (folder / "config.yaml").read_text().replace(str(tmp_path), "") != whole[:length]):
            lost.append((length, done))
        (folder / "config.yaml").write_text(whole[:length])
        done = run("train", "--cfg", CFG, *options, f"output_dir={tmp_path}", "optimizer.lr=1")
        if not (ended_in_one_line(done) and "optimizer.lr" in done.err):
            lost.append((length, done))
    what = "config.yaml of a run cut short: the run goes on, and other settings are refused as before"
    tally(CHAPTER, what, tried=2 * len(lengths), lost=len(lost))
    assert not lost


def print_to_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


@pytest.mark.whole
def test_output_to_a_full_disk_is_one_line(options, tmp_path):
    done = run("train", "--cfg", CFG, *options, f"output_dir={tmp_path}", sabotage=[print_to_full_disk])
    assert ended_in_one_line(done), done
