"""Griffe extension: docstrings of this repository as Markdown.

They describe an argument or a field by a sentence `name: what it is.`, and end with `Raises ...`. The descriptions
become a list, what is raised a paragraph.
"""

import re
from typing import Any

import griffe

NAMES = r"[a-z_]\w*(?:(?:, | and )[a-z_]\w*)*"
DESCRIPTION = re.compile(rf"(?:^|(?<=\. ))({NAMES}): (?=\S)")


class Docstrings(griffe.Extension):
    """Rewrite every docstring when it has been read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Rewrite each paragraph of ordinary lines; indented ones are code."""
    return "\n\n".join(
        part if re.search(r"^(?: |- )", part, re.MULTILINE) else rewritten(" ".join(part.splitlines()))
        for part in text.split("\n\n")
    )


def rewritten(paragraph: str) -> str:
    """A paragraph whose sentences may describe arguments and say what is raised."""
    described, _, raised = re.sub(r"(?<=\. )Raises ", "\0Raises ", paragraph, count=1).partition("\0")
    before, *parts = DESCRIPTION.split(described)
    items = [f"- `{name}`: {what.strip()}" for name, what in zip(parts[::2], parts[1::2], strict=True)]
    return "\n\n".join(part for part in (before.strip(), "\n".join(items), raised) if part)
