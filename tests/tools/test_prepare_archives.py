"""Fetching ADE20K and COCO from a server on the loopback address, with the embedded scenes in their archives."""

import io
import json
import sys
import zipfile
from pathlib import Path

import pytest

import downloads
from errors import UserError
from experiment import load_experiment
from tests.conftest import TINY
from tests.loopback import serve
from tools import prepare_ade20k, prepare_coco


def zipped(root, folders, inner=()):
    """A zip of these folders and files below root; those in `inner` become zips inside it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in folders:
            base = root / name
            for path in sorted(base.rglob("*")) if base.is_dir() else [base]:
                if path.is_file() and not any(parent in path.parents for parent in (root / i for i in inner)):
                    archive.write(path, path.relative_to(root))
        for name in inner:
            parent = (root / name).parent
            archive.writestr(f"{name}.zip", zipped(parent, [Path(name).name]))
    return content.getvalue()


@pytest.fixture(scope="module")
def archives(scenes):
    coco = scenes / "coco"
    pngs = ["annotations/panoptic_train2017", "annotations/panoptic_val2017"]
    instances = [f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    return {
        "/ADEChallengeData2016.zip": zipped(scenes, ["ADEChallengeData2016"]),
        "/train2017.zip": zipped(coco, ["train2017"]),
        "/val2017.zip": zipped(coco, ["val2017"]),
        "/annotations_trainval2017.zip": zipped(coco, instances),
        "/panoptic_annotations_trainval2017.zip": zipped(coco, [f"{name}.json" for name in pngs], inner=pngs),
    }


@pytest.fixture
def server(archives, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)
    with serve(dict(archives)) as server:
        yield server


def files_of(root):
    """All files below root, except hidden ones and the scenes' semantic maps, which COCO's zips do not have."""
    found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith((".", "stuffthingmaps"))}


def test_ade20k_from_nothing(server, scenes, tmp_path):
    data = prepare_ade20k.prepare(tmp_path, server.url, keep=False)
    assert files_of(data) == files_of(scenes / "ADEChallengeData2016")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["ADEChallengeData2016"]
    experiment = load_experiment("configs/small/seg.yaml", [*TINY, f"data.root={data}"])
    assert len(experiment.data.build("train")) == 10


def test_coco_from_nothing(server, scenes, tmp_path):
    prepare_coco.prepare(tmp_path, list(prepare_coco.PARTS), server.url, keep=False)
    assert files_of(tmp_path) == files_of(scenes / "coco")


def test_a_cut_in_every_archive_ends_with_the_same_bytes(server, scenes, tmp_path):
    server.cuts = [1000, 2000, 1000, 300, 400, 20_000]
    prepare_coco.prepare(tmp_path, list(prepare_coco.PARTS), server.url, keep=False)
    assert files_of(tmp_path) == files_of(scenes / "coco")
    assert any(asked for _, asked in server.requests)


def test_a_second_start_fetches_nothing(server, tmp_path, capsys):
    prepare_ade20k.prepare(tmp_path, server.url, keep=False)
    count = len(server.requests)
    prepare_ade20k.prepare(tmp_path, server.url, keep=False)
    assert len(server.requests) == count
    assert "already unpacked" in capsys.readouterr().out


def test_what_is_missing_or_cut_short_is_unpacked_again(server, scenes, tmp_path):
    data = prepare_ade20k.prepare(tmp_path, server.url, keep=True)
    images = sorted((data / "images/training").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:100])
    server.files.clear()  # the archive was kept
    prepare_ade20k.prepare(tmp_path, server.url, keep=True)
    assert files_of(data) == files_of(scenes / "ADEChallengeData2016")


def test_the_data_folder_itself_may_be_named(server, tmp_path):
    data = prepare_ade20k.prepare(tmp_path / "ADEChallengeData2016", server.url, keep=False)
    assert data == tmp_path / "ADEChallengeData2016"


def test_another_archive_is_refused(server, archives, tmp_path):
    (tmp_path / "ADEChallengeData2016.zip").write_bytes(archives["/train2017.zip"])
    with pytest.raises(UserError, match=r"is another archive: it has no ADEChallengeData2016/images, but train2017"):
        prepare_ade20k.prepare(tmp_path, server.url, keep=False)


def test_a_damaged_archive_is_named(server, archives, tmp_path):
    content = bytearray(archives["/ADEChallengeData2016.zip"])
    content[len(content) // 2] ^= 255
    for damaged in (bytes(content), bytes(content[:-500])):
        (tmp_path / "ADEChallengeData2016.zip").write_bytes(damaged)
        with pytest.raises(UserError, match="is not a complete zip"):
            prepare_ade20k.prepare(tmp_path, server.url, keep=False)


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "ADEChallengeData2016/images/../../../evil.txt"])
def test_an_archive_that_leads_out_is_refused(server, tmp_path, name):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    server.files["/ADEChallengeData2016.zip"] = content.getvalue()
    with pytest.raises(UserError, match="leads out of its folder"):
        prepare_ade20k.prepare(tmp_path / "root", server.url, keep=False)
    assert not (tmp_path / "evil.txt").exists()


def test_coco_2014_is_recognised(tmp_path):
    (tmp_path / "train2014").mkdir()
    with pytest.raises(UserError, match="COCO 2014"):
        prepare_coco.prepare(tmp_path, ["val2017"], None, keep=False)


def test_the_full_ade20k_is_told_apart(server, tmp_path, capsys):
    (tmp_path / "ADE20K_2021_17_01").mkdir()
    prepare_ade20k.prepare(tmp_path, server.url, keep=False)
    assert "full ADE20K with other labels" in capsys.readouterr().out


def test_too_small_a_disk_is_told_before_unpacking(server, archives, tmp_path, monkeypatch):
    (tmp_path / "ADEChallengeData2016.zip").write_bytes(archives["/ADEChallengeData2016.zip"])
    monkeypatch.setattr("downloads.archives.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="GB to unpack"):
        prepare_ade20k.prepare(tmp_path, server.url, keep=False)
    assert not (tmp_path / "ADEChallengeData2016").exists()


def test_the_record_has_every_file(server, scenes, tmp_path):
    prepare_ade20k.prepare(tmp_path, server.url, keep=False)
    record = json.loads((tmp_path / ".prepared/ADEChallengeData2016.zip.json").read_text())
    expected = files_of(scenes / "ADEChallengeData2016")
    assert record == {f"ADEChallengeData2016/{name}": len(content) for name, content in expected.items()}


def test_the_official_archive_is_checked_by_its_digest(tmp_path, archives):
    (tmp_path / "ADEChallengeData2016.zip").write_bytes(archives["/ADEChallengeData2016.zip"])
    with pytest.raises(UserError, match=r"has md5 \w+.. where 7328b3957e407dda.. is published"):
        prepare_ade20k.prepare(tmp_path, None, keep=False)


# --- the report at the end -------------------------------------------------------------------------------------------


def end_of(monkeypatch, capsys, tool, *words):
    """How a tool ends: its exit code and what it prints. The report is made in this process."""
    monkeypatch.setattr("tools.check_data.text.processors", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, words)])
    try:
        tool.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out


def test_ade20k_ends_with_the_report(server, tmp_path, monkeypatch, capsys):
    words = ["--root", tmp_path, "--mirror", server.url]
    code, output = end_of(monkeypatch, capsys, prepare_ade20k, *words)
    assert code == 0  # the scenes have 15 of the 150 classes
    assert "train: 10 images" in output
    assert "no image of train has wall" not in output
    assert output.endswith(f"train with data.root={tmp_path}/ADEChallengeData2016\n")
    assert "images" not in end_of(monkeypatch, capsys, prepare_ade20k, *words, "--no-check")[1]


def test_a_finding_that_stops_training_is_the_exit_code(server, tmp_path, monkeypatch, capsys):
    data = prepare_ade20k.prepare(tmp_path, server.url, keep=False)
    image = min((data / "images/training").iterdir())
    size = image.stat().st_size
    image.write_bytes(b"x" * size)  # as long as the record says
    code, output = end_of(monkeypatch, capsys, prepare_ade20k, "--root", tmp_path, "--mirror", server.url)
    assert code == 2
    assert str(image) in output


def test_coco_ends_with_the_report_on_the_parts_that_are_there(server, tmp_path, monkeypatch, capsys):
    words = ["--root", tmp_path, "--mirror", server.url, "--cfg", "configs/small/inst.yaml"]
    code, output = end_of(monkeypatch, capsys, prepare_coco, *words, "--parts", "val2017", "instances")
    assert code == 0
    assert "val: 5 images" in output
    assert "train:" not in output
    assert "train: 9 images" in end_of(monkeypatch, capsys, prepare_coco, *words)[1]
