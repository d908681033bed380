"""Downloads against a server on the loopback address that cuts, delays and lies."""

import hashlib
import http.server
import multiprocessing
import threading

import pytest

import downloads
from downloads import RemoteFile, fetch
from errors import UserError

CONTENT = bytes(range(256)) * 8192  # 2 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content`. cuts: how many bytes each of the next answers sends before the connection breaks."""

    content, tag, cuts, ranges = CONTENT, '"one"', [], True
    requests: list[str | None]

    def do_GET(self):  # noqa: N802
        cls = type(self)
        cls.requests.append(self.headers.get("Range"))
        if self.path == "/missing":
            return self.send_error(404)
        start, tag = 0, self.headers.get("If-Range", self.tag)
        if cls.ranges and self.headers.get("Range") and tag == self.tag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(self.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(self.content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.tag)
        self.end_headers()
        self.wfile.write(body[: cls.cuts.pop(0)] if cls.cuts else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Own", (Handler,), {"cuts": [], "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}/weights.pth"
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)


@pytest.fixture
def wanted(server, tmp_path):
    return RemoteFile(server.url, tmp_path / "cache/weights.pth", DIGEST, len(CONTENT))


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_fetched_once(server, wanted):
    assert fetch(wanted).read_bytes() == CONTENT
    assert fetch(wanted) == wanted.path
    assert server.requests == [None]
    assert left_in(wanted.path.parent) == ["weights.pth"]


def test_a_cut_connection_goes_on_where_it_was(server, wanted):
    server.cuts = [500_000, 700_000]
    assert fetch(wanted).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=500000-", "bytes=1200000-"]


def test_a_later_start_goes_on_where_the_earlier_one_was(server, wanted):
    server.cuts = [300_000, *[0] * downloads.TRIES]
    with pytest.raises(UserError, match="300000 bytes are kept and continued"):
        fetch(wanted)
    assert left_in(wanted.path.parent) == ["weights.pth.part", "weights.pth.part.tag"]
    server.cuts, server.requests = [], []
    assert fetch(wanted).read_bytes() == CONTENT
    assert server.requests == ["bytes=300000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, wanted):
    server.content, server.cuts = CONTENT[::-1], [300_000, *[0] * downloads.TRIES]
    with pytest.raises(UserError):
        fetch(wanted)
    server.content, server.tag, server.cuts = CONTENT, '"two"', []
    assert fetch(wanted).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_from_the_start(server, wanted):
    server.ranges, server.cuts = False, [300_000]
    assert fetch(wanted).read_bytes() == CONTENT


def test_a_part_that_is_already_complete(server, wanted):
    wanted.path.parent.mkdir()
    wanted.path.with_name("weights.pth.part").write_bytes(CONTENT)
    assert fetch(wanted).read_bytes() == CONTENT


def test_wrong_bytes_are_removed(server, wanted):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=rf"SHA-256 \w+.. where {DIGEST[:16]}.. is published; it was removed") as error:
        fetch(wanted)
    assert left_in(wanted.path.parent) == []
    assert f"store it as {wanted.path}, and run the same command again" in str(error.value)


def test_a_sign_in_page_is_recognised(server, wanted):
    server.content = b"\n<!DOCTYPE html><html>Welcome to the hotel</html>"
    with pytest.raises(UserError, match="is a web page"):
        fetch(wanted)


def test_digits_in_the_name_are_enough(server, wanted):
    short = RemoteFile(wanted.url, wanted.path, DIGEST[:8])
    assert fetch(short).read_bytes() == CONTENT


def test_a_file_that_was_put_there_by_hand_is_checked_and_taken(server, wanted):
    wanted.path.parent.mkdir()
    wanted.path.write_bytes(CONTENT)
    assert fetch(wanted) == wanted.path
    assert server.requests == []
    wanted.path.write_bytes(CONTENT[1:])
    with pytest.raises(UserError, match="SHA-256"):
        fetch(wanted)


def test_no_such_file(server, wanted, tmp_path):
    missing = RemoteFile(server.url.replace("weights.pth", "missing"), wanted.path, DIGEST)
    with pytest.raises(UserError, match="the server answers 404") as error:
        fetch(missing)
    assert str(wanted.path) in str(error.value)


def test_no_connection(wanted):
    offline = RemoteFile("http://127.0.0.1:9/weights.pth", wanted.path, DIGEST)
    with pytest.raises(UserError, match="http://127.0.0.1:9/weights.pth: cannot be fetched .*refused") as error:
        fetch(offline)
    assert str(wanted.path) in str(error.value)


def test_no_space(server, wanted, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="needs 0.00 GB more"):
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
    assert server.requests == [None, "bytes=1000000-", "bytes=1100000-"]
