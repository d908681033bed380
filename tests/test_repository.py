"""The repository as a whole: rooms and imports, configurations, documents."""

import ast
import re
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from experiment import load_experiment
from models.cost import shapes_only

ROOT = Path(__file__).parent.parent
OUTSIDE = {"tests", "configs", "docs", "results", "data", "runs", "build"}  # folders at the top that are no rooms
LONGEST_FILE, FULLEST_FOLDER = 350, 13
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in ("base", "board"))
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "LOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]


@cache
def sources() -> dict[str, Path]:
    """Every module of ours outside the tests, by its dotted name."""
    tops = [path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name not in OUTSIDE]
    files = [file for top in tops for file in ([top] if top.suffix == ".py" else top.rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def rooms() -> dict[str, list[str]]:
    """The list in CONTRIBUTING.md: what each room imports. A room is a module, or a folder with all below it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    lines = re.search(r"```rooms\n(.*?)```", text, re.DOTALL)[1].splitlines()
    return {room.strip(): names.split() for room, _, names in (line.partition(":") for line in lines)}


def room_of(module: str) -> str:
    """The room that a module lies in: of nested ones the innermost."""
    return max((room for room in rooms() if module == room or module.startswith(f"{room}.")), key=len)


def imported(path: Path, whole: bool = True) -> set[str]:
    """Modules of ours that a file imports; without `whole` those that it imports as soon as it is imported itself."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree) if whole else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {node.module} if not inner <= sources().keys() else inner
    return names & sources().keys()


def test_every_module_has_a_room():
    assert [module for module in sources() if not any(f"{module}.".startswith(f"{room}.") for room in rooms())] == []


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_what_contributing_says_and_nothing_else(room):
    found = {
        room_of(name)
        for module, path in sources().items()
        if room_of(module) == room
        for name in imported(path)
        if room_of(name) != room
    }
    assert " ".join(sorted(found, key=list(rooms()).index)) == " ".join(rooms()[room])


def test_no_import_runs_upward():
    order = list(rooms())
    assert [(room, name) for room in order for name in rooms()[room] if order.index(name) >= order.index(room)] == []


def test_modules_do_not_import_each_other():
    """Leave out, again and again, the modules that import none of those that are left."""
    waiting = {module: imported(path, whole=False) - {module} for module, path in sources().items()}
    while done := [module for module, names in waiting.items() if not names & waiting.keys()]:
        for module in done:
            del waiting[module]
    assert sorted(waiting) == []


def test_faults_are_put_where_something_is():
    """The fault suite, which is slow, names functions of ours in strings, as in `runtime.checkpoint:torch.save`."""
    files = [file.read_text() for file in (ROOT / "tests/faults").glob("*.py")]
    places = {place for text in files for place in re.findall(r'"(\w[\w.]*:[A-Za-z_][\w.]*)"', text)}
    assert len(places) > 10
    for module, _, dotted in (place.partition(":") for place in places):
        assert callable(attrgetter(dotted)(import_module(module))) or dotted.isupper(), f"{module}:{dotted}"


def test_the_training_loop_stays_readable():
    assert len((ROOT / "train.py").read_text().splitlines()) < 200


def test_files_are_short_and_folders_not_full():
    lengths = {path: len(path.read_text().splitlines()) for path in sources().values()}
    assert [path for path, length in lengths.items() if length > LONGEST_FILE] == []
    # One file for each upsampler, however many there are.
    folders = [path.parent for path in sources().values() if path.parent not in (ROOT, ROOT / "upsamplers")]
    assert [folder for folder in set(folders) if folders.count(folder) > FULLEST_FOLDER] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_loads_and_builds(path):
    experiment = load_experiment(path)
    with shapes_only():
        names = experiment.build_model(pretrained=experiment.model.weights is None).state_dict()
    fresh = experiment.model.weights_exclude
    assert [part for part in fresh if not any(name.startswith(f"{part}.") for name in names)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist(path):
    text = path.read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"(?:--cfg |python |base: )((?:[\w-]+/)*[\w-]+\.(?:py|yaml))", text)
    examples = (
        "upsamplers/nearest_conv.py",
        "datasets/pairs/dataset.py",
        "datasets/pairs/__init__.py",
        "configs/pairs.yaml",
    )
    named += re.findall(r"`((?:[\w-]+/)+[\w-]+\.py)`", text)
    named = [name for name in named if name not in examples]
    places = [ROOT, ROOT / "configs", path.parent]
    missing = [name for name in [*linked, *named] if not any((place / name).exists() for place in places)]
    modules = re.findall(r"python -m (tools\.\w+|benchmarks(?:\.\w+)+)", text)
    missing += [name for name in modules if name not in sources()]
    assert missing == []


def test_make_targets_that_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for path in DOCUMENTS:
        for target in re.findall(r"`?make ([a-z-]+)", path.read_text()):
            pattern = f"{target.partition('-')[0]}-%"
            assert re.search(rf"^({target}|{pattern}):", makefile, re.MULTILINE), f"{path.name}: make {target}"


def test_configs_and_sources_name_documents_and_sections_that_exist():
    headings = set(re.findall(r"^#+ (.*)", (ROOT / "README.md").read_text(), re.MULTILINE))
    headings |= set(re.findall(r"^\*\*([^*]+)\*\*", (ROOT / "README.md").read_text(), re.MULTILINE))
    for path in [*(ROOT / "configs").rglob("*.yaml"), *sources().values()]:
        text = path.read_text()
        missing = [name for name in re.findall(r"docs/[\w-]+\.md", text) if not (ROOT / name).exists()]
        sections = re.findall(r"\"([^\"\n]+)\" in the README|README,? (?:section )?\"([^\"\n]+)\"", text)
        missing += [name for pair in sections for name in pair if name and name not in headings]
        named = re.findall(r"configs/[\w/-]+\.yaml", text)
        missing += [name for name in named if not (ROOT / name).exists()]
        missing += [name for name in re.findall(r"python -m (tools\.[a-z]\w+)", text) if name not in sources()]
        assert missing == [], path
