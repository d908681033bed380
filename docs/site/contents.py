"""What the generated pages of the site hold."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from upsamplers import CONFIGS, PRESETS, expand_name

ROOT = Path(__file__).parents[2]
# Documents of the root, and files of the root that are not Markdown: the page of each, and the language.
DOCUMENTS = {"README.md": "index.md"} | {
    f"{name}.md": f"{name}.md" for name in ("BOARD", "RESULTS", "LOG", "RELIABILITY", "CONTRIBUTING", "CHANGELOG")
}
TEXTS = {"LICENSE": ("licence.md", "text"), "CITATION.cff": ("citation.md", "yaml")}
PICTURES = ("results/*.png", "benchmarks/results/*.png")  # that documents show
# Pages of docstrings, and the modules, classes and functions on each.
REFERENCE = {
    "Predictor": ["predictor"],
    "Upsamplers": [
        *("upsamplers.build_upsampler", "upsamplers.load_published", "upsamplers.expand_name"),
        *("upsamplers.base.Upsampler", "upsamplers.base.UpsamplerConfig", "upsamplers.base.Points"),
        *("upsamplers.points", "upsamplers.reassemble"),
    ],
    "Experiment": ["experiment"],
    "Types": ["structures"],
    "Models": ["models.base"],
    "Datasets": ["datasets.base"],
    "Metrics": ["metrics.base"],
    "Errors": ["errors"],
}


class Section(NamedTuple):
    """A part of a document: the headings above it, the innermost last, and its text."""

    headings: list[str]
    text: str


def sections(document: str) -> list[Section]:
    """The parts of a document in Markdown."""
    found: list[Section] = []
    headings: list[str] = []
    for part in re.split(r"^(?=#+ )", document, flags=re.MULTILINE):
        if part.startswith("#"):
            marks, _, title = part.partition("\n")[0].partition(" ")
            headings = [*headings[: len(marks) - 1], title]
            found.append(Section(headings, part.partition("\n")[2].strip()))
    return found


def rows(text: str) -> list[dict[str, str]]:
    """The rows of all tables in a text, by the heads of their columns."""
    found = []
    for lines in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, _, *body = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines.splitlines())
        found += [dict(zip(head, cells, strict=False)) for cells in body]
    return found


def table(*lines: tuple[str, ...] | list[str]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"|{' --- |' * len(lines[0])}", *body])


def reference_page(title: str, names: list[str]) -> str:
    """The docstrings of some modules, classes and functions. A single one needs no heading of its own."""
    options = "    options: {show_root_heading: false, show_root_toc_entry: false}" if len(names) == 1 else ""
    return "\n\n".join([f"# {title}", *(f"::: {name}\n{options}" for name in names)]) + "\n"


def page_of(name: str) -> str:
    """The page of an upsampler."""
    return f"upsamplers/{name.replace('+', '_plus')}.md"


def upsampler_page(name: str) -> str:
    """All that the documents and docstrings say of one upsampler."""
    overview = (ROOT / "docs/upsamplers.md").read_text()
    facts = next(row for row in rows(overview) if row["name"] == f"`{name}`")
    section = next(part for part in sections(overview) if name in part.headings[-1].split(", "))
    options = expand_name(name)
    meaning = json.dumps(options).replace('"', "")
    config = next(each for each in CONFIGS if each.name == options["name"])
    plain = type(config().build(32, 32, 2))
    own = type(config(**options).build(32, 32, 2))
    shown_here = [own, config] if name not in PRESETS else [own] if own != plain else []
    costs = ("weights of convolutions", facts["weights"]), ("multiply-accumulates for each pixel of x", facts["MACs"])
    parts = [
        f"# {name}",
        f"{facts['what it is'][:1].upper()}{facts['what it is'][1:]}.",
        f"```yaml\nmodel:\n  upsampler: {name}{f'  # {meaning}' if name in PRESETS else ''}\n```",
        table(
            ("cost, 256 channels, scale 2", ""),
            *costs,
            ("published", facts["published"] or "in no paper"),
            ("guide", "read" if facts["guide"] else "only its size is used"),
        ),
        re.sub(r"\]\((?=[\w/-]+\.(?:md|webp|jpg))", "](../", section.text),
        *measured(name),
        "## In Python",
        *(f"::: {each.__module__}.{each.__name__}\n    options: {{heading_level: 3}}" for each in shown_here),
        *([f"It is `{meaning}`: [{options['name']}]({options['name']}.md#in-python)."] if name in PRESETS else []),
    ]
    return "\n\n".join(parts) + "\n"


def measured(name: str) -> list[str]:
    """The rows of an upsampler in the tables of counts and of the mini-paper."""
    parts = []
    counts = [
        [part.headings[-1], *(row[key] for key in ("column", "paper", "ours", "verdict"))]
        for part in sections((ROOT / "docs/tables.md").read_text())
        for row in rows(part.text)
        if row["upsampler"] == name and "verdict" in row
    ]
    if counts:
        parts += ["## Counts beside the paper's", table(("model", "column", "paper", "ours", "verdict"), *counts)]
        parts.append("More, and what the verdicts mean: [tables](../tables.md).")
    results = [
        [" ".join(part.headings[-2:-1]), part.headings[-1].partition(" (")[0], *list(row.values())[1:3], row["verdict"]]
        for part in sections((ROOT / "RESULTS.md").read_text())
        for row in rows(part.text)
        if row.get("variant") == name
    ]
    if results:
        head = ("experiment", "metric", "mean ± sd over seeds", "minus the baseline [95 %]", "verdict")
        parts += ["## In the mini-paper", table(head, *results)]
        parts.append(
            "Small scenes, short runs, random weights; what this shows and what not: [results](../RESULTS.md)."
        )
    return parts


def notebook_page(path: Path) -> str:
    """The cells of a notebook with their outputs. Without a notebook: nothing."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [shown(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts) + "\n"


def shown(output: dict[str, Any]) -> str:
    """An output of a cell: a picture or text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    for kind in ("image/webp", "image/jpeg", "image/png"):
        if kind in data:
            return (
                f'<img alt="The picture that this cell draws" src="data:{kind};base64,{"".join(data[kind]).strip()}">'
            )
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
