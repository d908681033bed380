"""The notebook docs/first_steps.ipynb.

New outputs: remove its data and runs, then `.venv/bin/jupyter execute --inplace docs/first_steps.ipynb`.
"""

import ast
import json
import re
import shutil

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs/first_steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
OUTPUTS = [output for cell in CELLS for output in cell.get("outputs", [])]


def test_it_is_small_and_its_outputs_name_no_place():
    assert NOTEBOOK.stat().st_size < 300_000
    texts = ["".join(output.get("text", "")) for output in OUTPUTS]
    assert any("mIoU" in text for text in texts)
    assert [text for text in texts if re.search(r"/(home|root|tmp|usr|work)/", text)] == []
    assert sum("image/jpeg" in output.get("data", {}) for output in OUTPUTS) == 4


def test_its_cells_are_python():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path):
    """In a folder with all of the repository but its data and runs."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for path in ROOT.iterdir():
        if path.name not in ("data", "runs", "docs"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "docs").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "docs")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.outputs = []
    folder = {"metadata": {"path": str(tmp_path / "docs")}}
    done = nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3", resources=folder).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    texts = "".join(output.get("text", "") for output in outputs)
    assert "error:" not in texts
    assert len(re.findall(r"^(?:dysample|carafe) +mIoU \d", texts, re.MULTILINE)) == 2
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs) == 4
    assert (tmp_path / "runs/first_carafe/checkpoints/best.pt").is_file()
