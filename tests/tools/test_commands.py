"""Every command starts, as `python FILE` or `python -m tools.NAME`, and reads its arguments before it imports torch."""

import ast
import json
import runpy
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOOLS = sorted(
    path.parent.name if path.name == "__main__.py" else path.stem
    for path in [*(ROOT / "tools").glob("*.py"), *(ROOT / "tools").glob("*/__main__.py")]
    if "run_command(main)" in path.read_text()
)
COMMANDS = ["train", "eval", *(f"tools.{name}" for name in TOOLS)]
# Runs commands one after the other in a process that has imported nothing.
RUNNER = """
import contextlib, io, json, runpy, sys, warnings
warnings.simplefilter("ignore")  # runpy, of a tool that another one has imported
results = []
for command, *words in json.loads(sys.argv[1]):
    sys.argv = [command, *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code
    results.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules])
print(json.dumps(results))
"""


def run_early(*lines: list[str]) -> list[tuple[int, str, str, bool]]:
    """Exit code, stdout and stderr of each command line, and whether it, or one before it, imported PyTorch."""
    arguments = [sys.executable, "-c", RUNNER, json.dumps(lines)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    return [tuple(result) for result in json.loads(done.stdout)]


def test_all_commands_are_tried():
    assert len(TOOLS) == 27


def test_help_does_not_import_pytorch():
    results = run_early(*([command, "--help"] for command in COMMANDS))
    late = [command for command, (*_, has_torch) in zip(COMMANDS, results, strict=True) if has_torch]
    assert late == []
    assert {(code, out[:6], err) for code, out, err, _ in results} == {(0, "usage:", "")}


def test_every_argument_is_explained():
    """--help says nothing about an argument without a help text."""
    for path in [*(ROOT / "tools").rglob("*.py"), ROOT / "workflow/arguments.py", ROOT / "config/command.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                names = {keyword.arg for keyword in node.keywords}
                assert names & {"help", None}, f"{path}: {ast.unparse(node)}"  # None: **options


def test_what_is_wrong_in_a_command_line_is_found_before_pytorch_is_imported(tmp_path):
    broken, good = tmp_path / "broken.yaml", "configs/small/seg.yaml"
    broken.write_text("model: [\n")
    child = tmp_path / "child.yaml"
    child.write_text("base: /proc/nowhere.yaml\n")
    tabs = tmp_path / "tabs.yaml"
    tabs.write_text("model:\n\tupsampler: carafe\n")
    lines = {
        ("eval", "--checkpoint", good, "--chekc"): "command line: unrecognized arguments: --chekc; settings are KEY",
        ("tools.report", good, "--chekc"): "command line: unrecognized arguments: --chekc; see tools.report --help",
        ("train", good): f"command line: the following arguments are required: --cfg; write --cfg {good}",
        ("train", "--cfg", good, "--model.upsampler=carafe"): "command line: unrecognized arguments: "
        "--model.upsampler=carafe; settings are KEY=VALUE without dashes, for example model.upsampler=carafe; see ",
        ("train", "--cfg", "/proc/nowhere.yaml"): "/proc/nowhere.yaml: no such file; name an existing YAML file",
        ("train", "--cfg", str(broken)): f"{broken} line 2: ",
        ("train", "--cfg", str(tabs)): f"{tabs} line 2: has a tab in front of a word; indent with spaces",
        ("train", "--cfg", str(child), "--check"): "/proc/nowhere.yaml (the `base` of ",
        ("train", "--cfg", good, "steps"): "argument steps: is not KEY=VALUE; ",
        ("eval", "--checkpoint", "x", "--which", "first"): "command line: argument --which: invalid choice: 'first'",
        ("eval", "--checkpoint", "x", "--cfg", str(broken)): f"{broken} line 2: ",
        ("tools.complexity", "--cfg", str(broken)): f"{broken} line 2: ",
    }
    for line, (code, _, err, has_torch) in zip(lines, run_early(*map(list, lines)), strict=True):
        assert err.startswith(f"error: {lines[line]}")
        assert err.count("\n") == 1
        assert (code, has_torch) == (2, False)


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_describes_itself_when_it_has_imported_everything(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setenv("WORLD_SIZE", "2")  # so that only main reads the command line
    monkeypatch.setattr("runtime.shutdown.rank_and_count", lambda: (0, 1))
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"tools.{name}", run_name="__main__", alter_sys=True)
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


def test_the_formats_that_commands_offer_are_those_that_they_have():
    from published.converters import names, sources
    from tools.import_data import __main__ as import_data

    assert set(names.NAMES) == set(sources.SOURCES)
    assert set(import_data.FORMATS) == {*import_data.OBJECTS, *import_data.PAIRS}
