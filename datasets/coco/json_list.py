"""Read the entries of one long list in a JSON file one after the other: neither they nor the file fill the memory.

Whatever is not as expected raises ValueError; the file is then to be parsed as a whole, which tells what is wrong.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

CHUNK = 2**22  # bytes that are read at once
OPENING, CLOSING, QUOTE = b"[{", b"]}", b'"'
NO_STRUCTURE = bytes(set(range(256)) - set(OPENING + CLOSING + QUOTE))
ESCAPE = re.compile(rb"\\.", re.DOTALL)
BEGINNING = re.compile(rb"\s*:\s*\[\s*")
SPACE = re.compile(r"[ \t\n\r]*")


class LongList:
    """The list at one key of the object that a JSON file is. `rest`: that object, parsed, with this list empty.

    make_record: makes every object from its keys and values. Raises OSError if the file cannot be read, and ValueError
    if it has no such list, or if something outside of it is no JSON.
    """

    def __init__(self, path: Path, key: str, make_record: Callable[[list[tuple[str, Any]]], Any]) -> None:
        self._path, self._decoder = path, json.JSONDecoder(object_pairs_hook=make_record)
        with path.open("rb") as file:
            if json.detect_encoding(file.read(4)) != "utf-8":
                raise ValueError("it is not UTF-8")
            self._start = _start_of_list(file, json.dumps(key).encode())
            self._end = _end_of_list(file, self._start)
            file.seek(0)
            before = file.read(self._start)
            file.seek(self._end)
            self.rest = self._decoder.decode(str(before + file.read(), "utf-8", "surrogatepass"))
        if not isinstance(self.rest, dict) or self.rest.get(key) != []:
            raise ValueError("the list is that of another object")

    def __iter__(self) -> Iterator[Any]:
        """The entries in order. Raises OSError, and ValueError at the first that is no JSON."""
        decode, scan = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode, self._decoder.raw_decode
        text, place, left = "", 0, self._end + 1 - self._start  # bytes to read, with the bracket
        with self._path.open("rb") as file:
            file.seek(self._start)
            while self._end > self._start:
                try:
                    entry, after = scan(text, place)
                    if text[after] not in ",]":
                        after = _after_space(text, after)
                    mark = text[after]
                except (ValueError, IndexError):
                    if left == 0:
                        raise ValueError("an entry is no JSON") from None
                    # Read at least as much as there is, so that a long entry is not begun again too often.
                    data = file.read(min(left, max(CHUNK, len(text) - place)))
                    left = left - len(data) if data else 0
                    text = text[place:] + decode(data, left == 0)
                    place = _after_space(text, 0)
                    continue
                yield entry
                if mark == "]" and left == 0 and after == len(text) - 1:
                    return
                if mark != ",":
                    raise ValueError("entries are not separated by commas")
                place = _after_space(text, after + 1)


def _after_space(text: str, place: int) -> int:
    return SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches anywhere


def _start_of_list(file: BinaryIO, name: bytes) -> int:
    """Where the list at the key `name`, with its quotes, has its first entry. ValueError unless it occurs just once."""
    found: list[int] = []
    position, before = 0, b""  # of what has been read, the last bytes, of which a name may be part
    file.seek(0)
    while data := file.read(CHUNK):
        piece = before + data
        found += [position - len(before) + match.start() for match in re.finditer(re.escape(name), piece)]
        position, before = position + len(data), piece[1 - len(name) :]
    if len(found) != 1:
        raise ValueError("there is no such key, or several")
    file.seek(found[0] + len(name))
    beginning = BEGINNING.match(file.read(CHUNK))
    if beginning is None:
        raise ValueError("there is no list at this key")
    return found[0] + len(name) + beginning.end()


def _end_of_list(file: BinaryIO, start: int) -> int:
    """The place of the bracket that ends the list whose entries begin at `start`. ValueError if there is none."""
    file.seek(start)
    depth, quotes = 1, 0
    while data := file.read(CHUNK):
        while data.endswith(b"\\") and (more := file.read(1)):  # part no escape
            data += more
        if b"\\" in data:
            data = ESCAPE.sub(b"  ", data)
        marks = np.frombuffer(data.translate(None, NO_STRUCTURE), np.uint8)
        is_quote = marks == QUOTE[0]
        in_text = (quotes + np.cumsum(is_quote)) % 2 == 1
        steps = np.isin(marks, [*OPENING]).astype(np.int64) - np.isin(marks, [*CLOSING])
        depths = depth + np.cumsum(np.where(in_text, 0, steps))
        if len(closed := np.flatnonzero(depths == 0)):
            of_data = np.isin(np.frombuffer(data, np.uint8), [*OPENING, *CLOSING, *QUOTE])
            return start + int(np.flatnonzero(of_data)[closed[0]])
        if len(marks):
            depth, quotes = int(depths[-1]), quotes + int(is_quote.sum())
        start += len(data)
    raise ValueError("the list has no end")
