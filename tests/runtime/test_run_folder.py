"""A start that is refused leaves no folder that was not there before."""

import pytest

from config import Schema
from errors import UserError
from runtime.run_folder import RunFolder


class Settings(Schema):
    """Any settings."""

    steps: int = 1


def refuse(path, before=lambda: None) -> None:
    """Start a run that ends with an error, after doing something."""

    def start() -> None:
        with RunFolder(path, Settings()):
            before()
            raise UserError("data", "are not there", "fetch them")

    with pytest.raises(UserError):
        start()


def test_a_refused_start_leaves_nothing(tmp_path):
    refuse(tmp_path / "out" / "runs" / "seg")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays(tmp_path):
    (tmp_path / "runs" / "seg").mkdir(parents=True)
    (tmp_path / "runs" / "seg" / "notes.txt").write_text("mine")
    refuse(tmp_path / "runs" / "seg")
    refuse(tmp_path / "runs" / "other")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["seg"]
    assert (tmp_path / "runs" / "seg" / "notes.txt").exists()


@pytest.mark.parametrize(("name", "text"), [("checkpoints/last.pt", ""), ("log.jsonl", '{"section": "train"}')])
def test_a_run_that_has_begun_stays(tmp_path, name, text):
    def train() -> None:
        (tmp_path / "seg" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "seg" / name).write_text(text)

    refuse(tmp_path / "seg", train)
    assert (tmp_path / "seg" / name).exists()
    assert (tmp_path / "seg" / "config.yaml").exists()


def test_a_run_that_ends_well_stays(tmp_path):
    with RunFolder(tmp_path / "seg", Settings()) as changed:
        assert changed == []
    assert (tmp_path / "seg" / "config.yaml").exists()
