"""What stands in the documents: code that is valid, options that exist, settings that load, pictures that are used."""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from errors import UserError
from experiment import load_experiment
from tests.conftest import ROOT
from tests.tools.test_commands import TOOLS, run_early

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLLOWED = "extending.md"  # its examples are new names; tests/test_extending.py follows it to the letter
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}


def blocks(language: str) -> list[tuple[str, str]]:
    """All blocks of code in a language, with their documents."""
    found = [(name, re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.M)) for name, text in TEXTS.items()]
    return [(name, block) for name, many in found for block in many]


def commands() -> list[tuple[str, list[str]]]:
    """The words of all command lines, without environment variables and launchers, from the program on."""
    found = []
    for name, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                starts = [
                    index for index, word in enumerate(words) if re.fullmatch(r"(train|eval)\.py|tools\.\w+", word)
                ]
                found += [(name, words[starts[0] :])] if starts else []
    return found


COMMANDS = commands()


@contextmanager
def suppress_matching(pattern: str) -> Iterator[None]:
    """Pass over an error of the user's that a pattern describes."""
    try:
        yield
    except UserError as error:
        if not re.search(pattern, str(error)):
            raise


def test_blocks_of_python_are_python():
    for name, block in blocks("python"):
        ast.parse(block, filename=name)


def test_blocks_of_yaml_are_yaml_and_whole_configurations_load(tmp_path):
    whole = 0
    for name, block in blocks("yaml"):
        content = yaml.safe_load(block)
        assert isinstance(content, dict), name
        if "base" in content and "..." not in block and name != FOLLOWED:
            whole += 1
            (tmp_path / "own.yaml").write_text(block.replace("base: ", f"base: {ROOT}/configs/", 1))
            elsewhere = f"^{content['data']['root']}/.*no such file; the classes would be read from it"
            with suppress_matching(elsewhere):
                load_experiment(tmp_path / "own.yaml")
    assert whole >= 4


def test_options_that_documents_use_exist():
    programs = sorted({words[0] for _, words in COMMANDS})
    assert {f"tools.{name}" for name in TOOLS} >= {name for name in programs if name.startswith("tools.")}
    helps = run_early(*([name.removesuffix(".py"), "--help"] for name in programs))
    known = {name: set(re.findall(r"--[\w-]+", text)) for name, (_, text, *_) in zip(programs, helps, strict=True)}
    used = [
        (name, words[0], option) for name, words in COMMANDS for option in re.findall(r"--\w[\w-]*", " ".join(words))
    ]
    assert [use for use in used if use[2] not in known[use[1]]] == []


def test_settings_that_documents_use_load():
    tried = 0
    for name, words in COMMANDS:
        if name != FOLLOWED and "--cfg" in words and (path := ROOT / words[words.index("--cfg") + 1]).is_file():
            settings = [word for word in words[1:] if re.match(r"[a-z][\w.]*=", word)]
            load_experiment(path, settings)
            tried += 1
    assert tried > 10


def test_documents_call_the_python_of_an_active_environment():
    places = [(name, line) for name, text in TEXTS.items() for line in text.splitlines() if ".venv/bin/" in line]
    assert [place for place in places if ". .venv/bin/activate" not in place[1]] == []


def test_screenshots_are_small_and_shown():
    pictures = sorted((ROOT / "docs/images/screens").glob("*"))
    assert len(pictures) >= 4
    for picture in pictures:
        assert picture.stat().st_size < 200_000
        assert any(f"images/screens/{picture.name}" in text for text in TEXTS.values()), picture


@pytest.fixture
def ignored():
    """Whether a path is left out of an image of the Dockerfile."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    return lambda path: any(Path(path).match(pattern) for pattern in patterns)


def test_the_dockerfile_names_what_exists(ignored):
    """`make check` runs hadolint, which knows no files and no targets."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    for names in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert [name for name in names.split() if not (ROOT / name).exists() or ignored(name)] == []
    for target in re.findall(r"^RUN make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (program,) = re.findall(r'^CMD \["python", "([\w.]+)"', text, re.MULTILINE)
    assert (ROOT / program).exists()
    assert all(ignored(name) for name in (".git", ".venv", "data", "runs"))


def install_lines(tmp_path: Path, *arguments: str) -> list[str]:
    """What `make install` would run in a fresh clone, but for its checks."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "-n", "install", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if " install " in line]


def test_make_installs_by_pip_or_uv_and_takes_the_build_of_pytorch_that_is_asked_for(tmp_path):
    rest = "--quiet -r requirements.txt"
    assert install_lines(tmp_path) == [f".venv/bin/python -m pip install {rest}"]
    assert install_lines(tmp_path, "PIP=uv pip") == [f"uv pip install {rest}"]
    torch, others = install_lines(tmp_path, "TORCH=cpu", "TORCH_INDEX=http://127.0.0.1/cpu")
    assert torch.endswith("pip install --quiet torch torchvision --index-url http://127.0.0.1/cpu")
    assert others.endswith(rest)
    assert "/whl/cu126" in install_lines(tmp_path, "TORCH=cu126")[0]


def test_make_refuses_a_build_of_pytorch_that_cannot_be_meant(tmp_path):
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(["make", "install", "TORCH=CPU"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: TORCH: CPU is no build of PyTorch; give cpu, xpu, or ")
    assert not (tmp_path / ".venv").exists()
