"""The entries of a long list, read one after the other, are those of Python's own parser."""

import json
import random
from pathlib import Path

import pytest

from datasets.coco.json_file import AnnotationFile
from datasets.coco.json_list import LongList
from errors import UserError

TEXTS = ["", "]", '"', "\\", '\\"]}', "[{", "ü", "日本", "\U0001f600", "a, b", '"annotation"', "\n"]


def value(rng: random.Random, depth: int = 0) -> object:
    kind = rng.randrange(7 if depth < 3 else 4)
    if kind < 4:
        return [rng.choice(TEXTS), rng.randrange(-99, 10**9), rng.uniform(-9, 9), rng.choice([None, True, False])][kind]
    if kind < 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS) + str(number): value(rng, depth + 1) for number in range(rng.randrange(4))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


@pytest.mark.parametrize("seed", range(40))
def test_entries_are_those_of_the_parser_wherever_a_piece_ends(seed: int, path: Path, monkeypatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr("datasets.coco.json_list.CHUNK", rng.choice([17, 20, 31, 64, 1000]))
    content = {"annotations": [value(rng) for _ in range(rng.randrange(12))], "info": value(rng), "images": value(rng)}
    content = dict(rng.sample([*content.items()], 3))  # in any order
    layout = [{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" , ", " :\t")}][seed % 4]
    text = json.dumps(content, ensure_ascii=seed % 3 == 0, **layout)
    path.write_bytes(f"  {text}\r\n".encode())
    found = LongList(path, "annotations", dict)
    assert [*found] == content["annotations"]
    assert [*found] == content["annotations"]  # again
    assert found.rest == content | {"annotations": []}


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [{"annotations": [1, 2]}], "annotations": [3, 4]}',
        '{"images": [{"annotations": [1, 2]}], "\\u0061nnotations": [3, 4]}',
        '{"info": "\\"annotations\\": [", "annotations": [3, 4]}',
        '{"info": "annotations", "annotations": [3, 4]}',
        '{"info": {"annotations": []}, "annotat\\u0069ons": [3, 4]}',
    ],
)
def test_keys_that_mislead(text: str, path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(text.encode(encoding))
        assert [*AnnotationFile(path, "file").annotations()] == [3, 4]


@pytest.mark.parametrize(
    "text",
    [
        '{"annotations": [1, 2,], "images": []}',
        '{"annotations": [1 2], "images": []}',
        '{"annotations": [,], "images": []}',
        '{"annotations": [1, 2}, "images": []}',
        '{"annotations": [1, {"a": 2]], "images": []}',
        '{"annotations": [1, 2], "images": [}',
        '{"annotations": [1, 2], "images": []',
        '{"annotations": [1, "2], "images": []}',
        '{"annotations": [1, {"a": 1, "a": 2}], "images": []}',
        '{"annotations": [1, nul], "images": []}',
        '{"annotations": [1, "\\x"], "images": []}',
        '{"annotations": [1, ' + "[" * 100_000 + "]" * 100_000 + "]}",
        '{"annotations": [1], "annotations": [2]}',
        '{"annotations": [1] 2}',
    ],
)
@pytest.mark.parametrize("piece", [16, 2**22])
def test_a_broken_file_ends_as_if_it_were_parsed_at_once(text: str, piece: int, path: Path, monkeypatch) -> None:
    monkeypatch.setattr("datasets.coco.json_list.CHUNK", piece)
    path.write_text(text)
    with pytest.raises(UserError, match="is not valid JSON") as stop:
        [*AnnotationFile(path, "file").annotations()]
    monkeypatch.setattr("datasets.coco.json_file.LongList", raise_value_error)
    with pytest.raises(UserError) as expected:
        AnnotationFile(path, "file")
    assert str(stop.value) == str(expected.value)


def raise_value_error(*_: object) -> None:
    raise ValueError
