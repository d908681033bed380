"""tools.check_data as a command: exit codes, JSON, the page, workers; and that it changes nothing."""

import json

import numpy as np
import pytest

from errors import UserError
from tests.tools.check_data.breaking import LAYOUTS, Copy, write
from tests.tools.pages.reader import check_alone
from tools.check_data.page import page
from tools.check_data.text import SHOWN, describe


@pytest.fixture
def copy(scenes, tmp_path):
    return lambda task: Copy(scenes, tmp_path / task, task)


@pytest.fixture
def broken(copy):
    """ADE20K with a cut image, an empty label map and a duplicate."""
    data = copy("seg")
    data.images()[1].write_bytes(data.images()[1].read_bytes()[:700])
    write(data.labels()[3], np.zeros((48, 64), np.uint8))
    data.images("val")[2].write_bytes(data.images()[0].read_bytes())
    return data


def call(here, data, *words) -> int:
    with pytest.raises(SystemExit) as stop:
        here("tools.check_data.__main__", "--cfg", f"configs/small/{data.task}.yaml", *words, *data.arguments())
    return stop.value.code


def test_exit_codes(here, copy, broken):
    assert call(here, copy("depth"), "--workers", 1) == 0
    assert call(here, broken, "--workers", 1, "--split", "val") == 0
    assert call(here, broken, "--workers", 1) == 2
    broken.images()[1].unlink()
    broken.labels()[1].unlink()
    assert call(here, broken, "--workers", 1) == 1


def test_the_json_record(here, broken, tmp_path, capsys):
    assert call(here, broken, "--workers", 1, "--json", tmp_path / "record.json") == 2
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["exit_code"] == 2
    assert record["kinds"] == {"damaged file": 1, "empty image": 1, "validation image in training": 1}
    assert set(record["findings"][0]) == {"split", "kind", "file", "what", "do", "stops"}
    assert record["splits"]["train"]["images"] == 10
    assert record["splits"]["train"]["read"] == 9
    assert record["splits"]["val"]["classes"]["wall"]["images"] == 5
    capsys.readouterr()
    call(here, broken, "--workers", 1, "--json")
    assert json.loads(capsys.readouterr().out) == record


def test_json_before_a_setting_is_no_file(here, copy, capsys):
    data = copy("seg")
    with pytest.raises(SystemExit):
        here(
            "tools.check_data.__main__", "--cfg", "configs/small/seg.yaml", "--workers", 1, "--json", *data.arguments()
        )
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_a_record_that_cannot_be_written_is_told_before_the_work(here, copy, tmp_path):
    data = copy("seg")
    with pytest.raises(UserError, match="cannot be written"):
        here("tools.check_data.__main__", "--cfg", "configs/small/seg.yaml", "--json", tmp_path, *data.arguments())


@pytest.mark.parametrize("task", LAYOUTS)
def test_the_result_does_not_depend_on_the_workers(copy, task):
    data = copy(task)
    path = data.images()[2] if task != "depth" else sorted(data.root.rglob("rgb_*.jpg"))[2]
    path.write_bytes(b"")
    assert data.check(workers=3).record() == data.check(workers=0).record()


def test_counts_are_those_of_the_files(copy):
    data = copy("det")
    content = json.loads((data.root / "annotations/instances_val2017.json").read_text())
    record = data.check().record()["splits"]["val"]
    assert sum(counts["objects"] for counts in record["classes"].values()) == len(content["annotations"])
    assert record["objects"] == len(content["annotations"])
    assert record["sizes"] == {"different": 1, "most_common": [48, 64, 5], "height": [48, 48], "width": [64, 64]}


def test_panoptic_and_semantic_pixels_agree(copy):
    """The scenes of both layouts are the same; the panoptic one leaves out the training image without things."""
    semantic, panoptic = (copy(task).check().record()["splits"]["val"]["classes"] for task in ("seg", "pan"))
    assert {name: counts["pixels"] for name, counts in panoptic.items()} == {
        name: counts["pixels"] for name, counts in semantic.items()
    }


@pytest.mark.parametrize("task", LAYOUTS)
def test_nothing_in_the_data_is_changed(copy, task):
    data = copy(task)

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in data.root.rglob("*")}

    before = state()
    "".join(page(data.check()))
    assert state() == before


def test_the_terminal_shows_some_findings_of_each_kind(copy):
    data = copy("det")

    def change(content):
        for entry in [entry for entry in content["annotations"] if not entry["iscrowd"]][:30]:
            entry["bbox"][2] = 0

    data.edit(change)
    report = data.check()
    text = describe(report)
    assert len(report.findings) == 30
    assert text.count("annotation ") == SHOWN
    assert "and 10 more" in text
    assert "".join(page(report)).count('<td class="file">') == 30


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", LAYOUTS)
def test_the_page_is_complete_and_needs_nothing_else(copy, task):
    text = "".join(page(copy(task).check()))
    check_alone(text)
    assert "sound: nothing was found" in text
    assert text.count("<svg") >= 2


def test_the_page_names_findings_and_shows_their_pictures_first(broken):
    text = "".join(page(broken.check()))
    assert "1 finding would stop training, and it would survive 2 more" in text
    sheet = text[text.index('class="sheet"') :]
    first, second, third, fourth = sheet.split("<figure")[1:5]
    assert "damaged file: " in first
    assert "cannot be read" in first
    assert "empty image: " in second
    assert "validation image in training: " in third
    assert "jpeg;base64" in third
    assert 'class="card "' in fourth


def test_names_are_escaped(copy):
    data = copy("seg")
    path = data.images()[0]
    path.rename(path.with_name("<script>&.jpg"))
    data.labels()[0].rename(data.labels()[0].with_name("<script>&.png"))
    text = "".join(page(data.check()))
    assert "<script>" not in text
    assert "&lt;script&gt;&amp;.jpg" in text
