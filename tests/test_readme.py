"""The README: short, and every command in it is run."""

import hashlib
import re
import shlex
import shutil

import pytest

from published.index import entries
from tests.conftest import ROOT
from tests.launch import main_of
from tests.loopback import serve
from tests.published.layouts import published_file, published_state
from tests.tools.import_data import made
from tests.tools.import_data.test_training import REST, SETTINGS, TINY_BACKBONE

TEXT = (ROOT / "README.md").read_text()
# What runs each command: a test, or what a developer and CI run.
RUN = {
    "git clone": "CI",
    "make demo": "tests/runs/test_whole_runs.py::test_a_demo_learns_as_recorded_and_is_scored_alike_everywhere",
    "make install": "CI",
    "make test": "CI",
    ". .venv/bin/activate": "CI",
    "tensorboard --logdir": "tests/faults/test_board.py",
    "python eval.py --checkpoint runs/demo_seg": "tests/runs/test_runs.py",
    "python train.py --cfg configs/demo/seg.yaml": "tests/runs/test_runs.py",
    "python -m tools.predict --model segformer_b1_ade20k": "test_a_photo_with_a_published_model",
    "python -m tools.import_data": "test_own_data_from_a_folder_to_a_page_of_errors",
    "python train.py --cfg /data/own": "test_own_data_from_a_folder_to_a_page_of_errors",
    "python -m tools.errors": "test_own_data_from_a_folder_to_a_page_of_errors",
    "python -m tools.prepare_ade20k": "tests/runs/test_road.py",
    "python -m tools.check_data": "tests/runs/test_road.py",
    "torchrun": "tests/runs/test_road.py",
    "python eval.py --checkpoint runs/seg_dysample": "tests/runs/test_road.py",
}


def lines() -> list[str]:
    """All commands in the blocks of the README."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    return [part.split(" #")[0].strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]


def block(heading: str) -> list[list[str]]:
    """The words of the commands below a heading."""
    text = re.search(rf"## {heading}\n.*?```bash\n(.*?)```", TEXT, re.DOTALL)[1]
    return [shlex.split(line, comments=True) for line in text.splitlines()]


def call(monkeypatch: pytest.MonkeyPatch, program: str, *words: str) -> None:
    monkeypatch.setattr("sys.argv", [program, *words])
    main_of(program.removesuffix(".py"))()


def test_it_is_short():
    assert len(TEXT.encode()) < 8000
    assert len(TEXT.splitlines()) < 150


def test_every_command_is_run():
    starts = sorted(RUN, key=len)
    unknown = [line for line in lines() if not line.startswith(("cd ", *starts))]
    assert unknown == []
    assert [start for start in starts if not any(line.startswith(start) for line in lines())] == []
    for place in RUN.values():
        path, _, name = place.partition("::")
        if path.endswith(".py"):
            assert f"def {name or 'test_'}" in (ROOT / path).read_text()
        else:
            assert path == "CI" or path in globals()


@pytest.mark.slow
def test_own_data_from_a_folder_to_a_page_of_errors(tmp_path, monkeypatch):
    made.yolo(tmp_path / "parts")
    small = [*TINY_BACKBONE, *SETTINGS["det"], *REST, "batch_size=2", f"output_dir={tmp_path}"]
    moved = {"/data/parts": tmp_path / "parts", "/data/own": tmp_path / "own", "runs/own": tmp_path / "own-run"}
    for words in block("Your own data"):
        program, *arguments = words[2:] if words[1] == "-m" else words[1:]
        for old, new in moved.items():
            arguments = [word.replace(old, str(new)) for word in arguments]
        settings = [*small, "run_name=own-run"] if program == "train.py" else []
        call(monkeypatch, program, *arguments, *settings)
    assert "worst" in (tmp_path / "own-run/errors.html").read_text()


@pytest.mark.slow
def test_a_photo_with_a_published_model(tmp_path, monkeypatch):
    entry = entries()["segformer_b1_ade20k"]
    content = published_file(entry, published_state(entry))
    facts = {"digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
    monkeypatch.setitem(entries(), entry.name, entry.model_copy(update=facts))
    monkeypatch.setenv("DENSEUP_CACHE", str(tmp_path / "cache"))
    (words,) = [shlex.split(line) for line in lines() if "tools.predict" in line]
    shutil.copy(ROOT / "docs/images/demo.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    with serve({f"/{entry.file}": content}) as server:
        monkeypatch.setenv("DENSEUP_MIRROR", server.url)
        call(monkeypatch, *words[2:])
    assert len(list(tmp_path.glob("predictions/**/photo.png"))) == 2
