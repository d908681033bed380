"""Downloads against a server on the loopback address that cuts, delays and lies."""

import hashlib
import multiprocessing

import pytest

import downloads
from downloads import RemoteFile, fetch
from errors import UserError
from tests.loopback import serve

CONTENT = bytes(range(256)) * 8192  # 2 MiB
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PATH = "/weights.pth"


@pytest.fixture
def server():
    with serve({PATH: CONTENT}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)


@pytest.fixture
def wanted(server, tmp_path):
    return RemoteFile(f"{server.url}{PATH}", tmp_path / "cache/weights.pth", DIGEST, len(CONTENT))


def ranges(server):
    return [asked for _, asked in server.requests]


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_fetched_once(server, wanted):
    assert fetch(wanted).read_bytes() == CONTENT
    assert fetch(wanted) == wanted.path
    assert ranges(server) == [None]
    assert left_in(wanted.path.parent) == ["weights.pth"]


def test_a_cut_connection_goes_on_where_it_was(server, wanted):
    server.cuts = [500_000, 700_000]
    assert fetch(wanted).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=500000-", "bytes=1200000-"]


def test_a_later_start_goes_on_where_the_earlier_one_was(server, wanted):
    server.cuts = [300_000, *[0] * downloads.TRIES]
    with pytest.raises(UserError, match="300000 bytes are kept and continued"):
        fetch(wanted)
    assert left_in(wanted.path.parent) == ["weights.pth.part", "weights.pth.part.tag"]
    server.cuts, server.requests = [], []
    assert fetch(wanted).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=300000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, wanted):
    server.files[PATH], server.cuts = CONTENT[::-1], [300_000, *[0] * downloads.TRIES]
    with pytest.raises(UserError):
        fetch(wanted)
    server.files[PATH], server.tag, server.cuts = CONTENT, '"two"', []
    assert fetch(wanted).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_from_the_start(server, wanted):
    server.ranges, server.cuts = False, [300_000]
    assert fetch(wanted).read_bytes() == CONTENT


def test_a_part_that_is_already_complete(server, wanted):
    wanted.path.parent.mkdir()
    wanted.path.with_name("weights.pth.part").write_bytes(CONTENT)
    assert fetch(wanted).read_bytes() == CONTENT


def test_wrong_bytes_are_removed(server, wanted):
    server.files[PATH] = CONTENT[:-1] + b"x"
    with pytest.raises(
        UserError, match=rf"has sha256 \w+.. where {DIGEST[7:23]}.. is published; it was removed"
    ) as error:
        fetch(wanted)
    assert left_in(wanted.path.parent) == []
    assert f"store it as {wanted.path}, and run the same command again" in str(error.value)


def test_a_sign_in_page_is_recognised(server, wanted):
    server.files[PATH] = b"\n<!DOCTYPE html><html>Welcome to the hotel</html>"
    with pytest.raises(UserError, match="is a web page"):
        fetch(wanted)


def test_digits_in_the_name_are_enough(server, wanted):
    short = RemoteFile(wanted.url, wanted.path, DIGEST[:15])
    assert fetch(short).read_bytes() == CONTENT


def test_an_md5_is_checked(server, wanted):
    digits = hashlib.md5(CONTENT).hexdigest()[:6]
    assert fetch(RemoteFile(wanted.url, wanted.path, f"md5:{digits}")).read_bytes() == CONTENT
    wanted.path.unlink()
    with pytest.raises(UserError, match="has md5"):
        fetch(RemoteFile(wanted.url, wanted.path, f"md5:{digits[::-1]}"))


def test_a_file_that_was_put_there_by_hand_is_checked_and_taken(server, wanted):
    wanted.path.parent.mkdir()
    wanted.path.write_bytes(CONTENT)
    assert fetch(wanted) == wanted.path
    assert server.requests == []
    wanted.path.write_bytes(CONTENT[1:])
    with pytest.raises(UserError, match=r"has sha256 .*; remove it"):
        fetch(wanted)
    assert wanted.path.exists()  # it is the user's


def test_no_such_file(server, wanted, tmp_path):
    missing = RemoteFile(f"{server.url}/missing", wanted.path, DIGEST)
    with pytest.raises(UserError, match="the server answers 404") as error:
        fetch(missing)
    assert str(wanted.path) in str(error.value)


def test_no_connection(wanted):
    offline = RemoteFile("http://127.0.0.1:9/weights.pth", wanted.path, DIGEST)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/weights.pth: cannot be fetched .*refused") as error:
        fetch(offline)
    assert str(wanted.path) in str(error.value)


def test_no_space(server, wanted, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"needs 0.00 GB more"):
        fetch(wanted)


def test_a_folder_that_cannot_be_written(server, wanted):
    wanted.path.parent.write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        fetch(wanted)


def test_processes_fetch_once_and_the_others_wait(server, wanted):
    server.cuts = [1_000_000, 100_000]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(wanted,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert ranges(server) == [None, "bytes=1000000-", "bytes=1100000-"]


def test_a_server_that_stops_sending(server, wanted, monkeypatch):
    monkeypatch.setattr(downloads, "SECONDS_WITHOUT_DATA", 0.05)
    server.delay = 0.3
    with pytest.raises(UserError, match=r"cannot be fetched \(.*timed out"):
        fetch(wanted)
