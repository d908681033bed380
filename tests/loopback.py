"""A server on the loopback address that stands for the internet, and cuts, delays and lies when told to."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`, by path. Every server has a class of its own, whose attributes the tests set.

    cuts: how many bytes the next answers send before the connection breaks. delay: seconds before each. ranges:
    whether parts of a file can be asked for. tag: the ETag. requests: the path and the Range of each request so far.
    """

    files: dict[str, bytes]
    cuts: list[int]
    requests: list[tuple[str, str | None]]
    url: str
    tag, ranges, delay = '"one"', True, 0.0

    def do_GET(self) -> None:
        """Answer a request."""
        cls = type(self)
        cls.requests.append((self.path, self.headers.get("Range")))
        time.sleep(cls.delay)
        content = cls.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if cls.ranges and self.headers.get("Range") and self.headers.get("If-Range", cls.tag) == cls.tag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", cls.tag)
        self.end_headers()
        self.wfile.write(body[: cls.cuts.pop(0)] if cls.cuts else body)

    def do_HEAD(self) -> None:
        """Answer as the Hugging Face hub does before one of its files is fetched."""
        content = type(self).files.get(self.path)
        self.send_response(200 if content is not None or self.path == "/" else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", type(self).tag)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[type[Server]]:
    """Serve these files, by path; `url` is the address without a slash at its end."""
    handler = type("OwnServer", (Server,), {"files": files, "cuts": [], "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield handler
    finally:
        server.shutdown()
        server.server_close()
