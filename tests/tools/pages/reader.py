"""Reads a page as a browser would, without one."""

from html.parser import HTMLParser

VOID = {"meta", "img", "wbr"}


class Reader(HTMLParser):
    """Checks that all elements are closed, and collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.names.add(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_alone(text: str) -> None:
    """Assert that the page is well-formed and needs nothing else: no file, no network, no script."""
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert "script" not in reader.names
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in reader.links)
    assert "url(" not in text
