"""Every tool starts as `python -m tools.NAME`, whether it is a file or a package."""

import runpy
import sys

import pytest

from tests.conftest import ROOT

TOOLS = sorted(
    path.parent.name if path.name == "__main__.py" else path.stem
    for path in [*(ROOT / "tools").glob("*.py"), *(ROOT / "tools").glob("*/__main__.py")]
    if "run_command(main)" in path.read_text()
)


def test_all_commands_are_tried():
    assert len(TOOLS) == 24


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", TOOLS)
def test_a_command_starts_as_a_module_and_describes_itself(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"tools.{name}", run_name="__main__", alter_sys=True)
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")
