"""The repository as a whole: layers, configurations, documents."""

import ast
import re
from pathlib import Path

import pytest

from experiment import load_experiment

ROOT = Path(__file__).parent.parent
LEAVES = {"errors", "config", "storage", "structures"}
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "storage": {"errors"},
    "structures": set(),
    "upsamplers": set(),
    "models": LEAVES | {"upsamplers"},
    "datasets": LEAVES,
    "metrics": LEAVES,
    "runtime": LEAVES,
    "pictures": LEAVES,
    "experiment": LEAVES | {"models", "datasets", "metrics", "runtime", "upsamplers"},
    "eval": LEAVES | {"experiment", "models", "datasets", "metrics", "runtime", "pictures"},
    "train": LEAVES | {"eval", "experiment", "models", "datasets", "metrics", "runtime", "tools"},
    "tools": LEAVES
    | {"eval", "experiment", "models", "datasets", "metrics", "runtime", "pictures", "upsamplers", "tools"},
    "benchmarks": LEAVES | {"eval", "experiment", "models", "datasets", "metrics", "runtime", "upsamplers", "tools"},
}
SOURCES = [
    path for name in MAY_IMPORT for path in [ROOT / f"{name}.py", *ROOT.glob(f"{name}/**/*.py")] if path.exists()
]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "base")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def imported(path: Path) -> set[str]:
    """Top-level modules of ours that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names & MAY_IMPORT.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path):
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert imported(path) <= MAY_IMPORT[layer] | {layer}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_loads_and_builds(path):
    load_experiment(path).build_model()


def test_the_training_loop_stays_readable():
    assert len((ROOT / "train.py").read_text().splitlines()) < 200
    long = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert not [path for path, length in long.items() if length > 350]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist(path):
    text = path.read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"(?:--cfg |python |base: )((?:[\w-]+/)*[\w-]+\.(?:py|yaml))", text)
    modules = [f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m (tools\.\w+|benchmarks\.\w+)", text)]
    places = [ROOT, ROOT / "configs", path.parent]
    missing = [name for name in [*linked, *named, *modules] if not any((place / name).exists() for place in places)]
    assert not missing


def test_make_targets_that_documents_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for path in DOCUMENTS:
        for target in re.findall(r"`?make ([a-z-]+)", path.read_text()):
            pattern = f"{target.partition('-')[0]}-%"
            assert re.search(rf"^({target}|{pattern}):", makefile, re.MULTILINE), f"{path.name}: make {target}"
