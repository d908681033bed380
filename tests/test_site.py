"""What the site makes of documents and docstrings; `make docs` builds it and checks its links."""

import importlib.util
import re
import sys
from types import ModuleType

import pytest

from tests.conftest import ROOT
from upsamplers import NAMES, PRESETS


def load(name: str) -> ModuleType:
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / f"docs/site/{name}.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


contents = load("contents")


@pytest.mark.parametrize("name", NAMES)
def test_every_upsampler_has_a_page_with_its_facts_its_picture_and_its_class(name):
    page = contents.upsampler_page(name)
    assert page.startswith(f"# {name}\n")
    assert f"  upsampler: {name}" in page
    (picture,) = re.findall(r"\]\(\.\./(images/upsamplers/[\w-]+\.webp)\)", page)
    assert (ROOT / "docs" / picture).is_file()
    assert ("::: upsamplers." in page) == (name not in PRESETS or name == "sapa-d")
    assert ("](../tables.md)" in page) == (
        f"\n| {name} | " in (ROOT / "docs/tables.md").read_text().split("MACs of")[0]
    )


def test_rows_and_sections_of_a_document():
    text = "# A\n\nx\n\n## B, C\n\n| n | m |\n|---|---|\n| 1 | |\n| 2 | y |\n\n## D\n"
    assert [part.headings for part in contents.sections(text)] == [["A"], ["A", "B, C"], ["A", "D"]]
    assert contents.rows(text) == [{"n": "1", "m": ""}, {"n": "2", "m": "y"}]


def test_descriptions_in_a_docstring_become_a_list():
    pytest.importorskip("griffe")
    text = (
        "Do it. x [B, C] -> [B].\n\nscale: of x, 2\nor 3. start, end: where. Raises ValueError if not.\n\n    code: 1"
    )
    expected = (
        "Do it. x [B, C] -> [B].\n\n- `scale`: of x, 2 or 3.\n- `start, end`: where.\n\nRaises ValueError if not."
    )
    assert load("docstrings").as_markdown(text) == f"{expected}\n\n    code: 1"


def test_outputs_of_the_notebook_become_pictures_and_text():
    picture, text = {"data": {"image/jpeg": "QUJD\n", "text/plain": "<Image>"}}, {"text": ["a\n", "b\n"]}
    assert 'src="data:image/jpeg;base64,QUJD"' in contents.shown(picture)
    assert contents.shown(text) == "```text\na\nb\n```"


def test_every_document_is_in_the_navigation():
    """`make docs` refuses others, too, but takes longer."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}\n" not in text] == []
