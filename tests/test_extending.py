"""docs/extending.md, followed to the letter in a copy of the repository."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from datasets.scenes import SCENE_CLASSES
from tests.conftest import ROOT

TEXT = (ROOT / "docs/extending.md").read_text()
# A file that is named before a block of code, and the block; or a block of commands.
BLOCKS = re.findall(r"`([\w/]+\.\w+)`[^`\n]*:\n\n```(python|diff|yaml)\n(.*?)```|```(bash)\n(.*?)```", TEXT, re.DOTALL)
SHORT = ["steps=2", "evaluation.every=2", "evaluation.pictures=0", "batch_size=4", "system.device=cpu"]


def section(title: str) -> list[tuple[str, ...]]:
    """The blocks of a section: (file, language, text) or ("", "bash", text)."""
    part = TEXT[TEXT.index(f"## {title}\n") :]
    part = part[: part.find("\n## ", 1)]
    found = [(file, language, text) if file else ("", bash, words) for file, language, text, bash, words in BLOCKS]
    return [block for block in found if block[2] in part]


def change(path: Path, diff: str) -> None:
    """Apply a diff of the document: lines to add below another, or words to put in place of others."""
    text, place = path.read_text(), 0
    removed = ""
    for line in diff.splitlines():
        sign, words = line[:1], line[1:]
        if line == "...":
            place, removed = 0, ""
        elif sign == "+" and removed:
            text = text.replace(removed, words)
        elif sign == "+":
            text = text[:place] + f"{words}\n" + text[place:]
            place += len(words) + 1
        else:
            assert text.count(words if sign == "-" else f"{words}\n") == 1, line
            removed = words if sign == "-" else ""
            place = text.index(words) + len(words) + 1
    path.write_text(text)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository without what is not code."""
    root = tmp_path_factory.mktemp("copy") / "denseup"
    hidden = shutil.ignore_patterns(".*", "__pycache__")
    own = {"data", "runs", "predictions", "weights", "site"}  # of the user
    shutil.copytree(
        ROOT, root, ignore=lambda folder, names: hidden(folder, names) | (own if Path(folder) == ROOT else set())
    )
    return root


def follow(title: str, root: Path) -> list[str]:
    """Write what a section says. Return its commands."""
    commands = []
    for file, language, text in section(title):
        if language == "bash":
            assert text.startswith("make format\n")
            commands += text.splitlines()[1:]
        elif language == "diff":
            change(root / file, text)
        else:
            (root / file).parent.mkdir(exist_ok=True)
            (root / file).write_text(text)
    return commands


def run(root: Path, command: str, *more: str) -> str:
    """Run a command of the document in the copy; give what it prints."""
    python, *words = shlex.split(command)
    assert python == "python"
    done = subprocess.run([sys.executable, *words, *more], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def formatted(root: Path) -> None:
    """What `make format` and the linter of `make check` do."""
    for words in ("check --fix --select I .", "format .", "check ."):
        run(root, f"python -m ruff {words}")


def test_the_document_has_a_command_for_each_part():
    assert [
        len([block for block in section(title) if block[1] == "bash"]) for title in ("An upsampler", "A dataset")
    ] == [1, 1]


@pytest.mark.slow
def test_an_upsampler(copy, scenes):
    test, train, benchmark = follow("An upsampler", copy)
    formatted(copy)
    assert " passed" in run(copy, test, "-p", "no:xdist", "-v")
    planned = run(copy, train, f"data.root={scenes}/ADEChallengeData2016", *SHORT)
    assert "segformer with nearest_conv" in planned
    measured = run(copy, benchmark, "--shape", "1", "16", "8", "8", "--repeats", "1", "--json")
    assert "nearest_conv" in measured


@pytest.mark.slow
def test_a_dataset(copy, scenes):
    test, train = follow("A dataset", copy)
    for split, name in (("training", "train"), ("validation", "val")):
        folder = copy / "data/pairs" / name
        folder.mkdir(parents=True)
        for image in (scenes / "ADEChallengeData2016/images" / split).iterdir():
            shutil.copy(image, folder)
            labels = cv2.imread(str(scenes / "ADEChallengeData2016/annotations" / split / f"{image.stem}.png"), -1)
            cv2.imwrite(str(folder / f"{image.stem}.png"), labels - 1)  # 0, ignored, becomes 255
    formatted(copy)
    assert " passed" in run(copy, test, "-p", "no:xdist", "-v")
    printed = run(copy, train, *SHORT, "run_name=pairs")
    assert f"of {len(SCENE_CLASSES)} of {len(SCENE_CLASSES)} classes" in printed
    run(copy, "python eval.py --checkpoint runs/pairs --predictions found --json found.json")
    scores = json.loads((copy / "runs/pairs/results.json").read_text())["metrics"]
    assert json.loads((copy / "found.json").read_text())["metrics"] == pytest.approx(scores)
    run(copy, "python -m tools.score --cfg configs/pairs.yaml --predictions found")
    assert len(list((copy / "found").iterdir())) == 5
