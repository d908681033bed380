"""Which checkpoint a path means."""

import pytest

from errors import UserError
from workflow.trained import find_checkpoint


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["best.pt", "last.pt", "previous.pt"], "best.pt"),
        (["last.pt", "previous.pt"], "last.pt"),
        (["previous.pt"], "previous.pt"),
    ],
)
@pytest.mark.parametrize("name", ["run", "checkpoints"])
def test_a_run_folder_means_its_best_checkpoint_else_the_last(tmp_path, files, found, name):
    folder = tmp_path / name / "checkpoints"
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    assert find_checkpoint(tmp_path / name) == folder / found
    assert find_checkpoint(folder) == folder / found
    assert find_checkpoint(folder / "other.pt") == folder / "other.pt"


def test_the_last_checkpoint_when_asked_for(tmp_path):
    for name in ("best.pt", "last.pt", "previous.pt"):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path, "last").name == "last.pt"


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
