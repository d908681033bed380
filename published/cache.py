"""The cache of weights: published files are fetched once, converted and kept as safetensors."""

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

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
        return fetch(RemoteFile(weights, path, f"sha256:{digits[1]}" if digits else "", again=again))
    entry = find(weights)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path):
            if not path.exists():
                _fetch_and_convert(entry, path, again)
    except OSError as error:
        advice = "free space, or move the cache by DENSEUP_CACHE"
        raise UserError(error.filename or path, f"cannot be written ({error.strerror})", advice) from None
    return path


def check(weights: str) -> str | None:
    """What is wrong with the converted file of a name, which must be in the cache; None if nothing."""
    path = stored(weights)
    record = json.loads(path.with_suffix(".json").read_text())
    found = digest_of(path)
    return (
        None if found == record["sha256"] else f"has SHA-256 {found[:16]}.. where {record['sha256'][:16]}.. was written"
    )


def _fetch_and_convert(entry: Entry, path: Path, again: str) -> None:
    original = cache_folder() / "downloads" / entry.file
    if entry.address is None and not original.exists():
        what = f"{entry.publisher} offer it on a page that asks questions, or no longer"
        raise UserError(
            f"weights {entry.name}", what, f"fetch it by hand, store it as {original}, and run {again} again"
        )
    source = RemoteFile(entry.address or "", original, _digest(entry, original), entry.size, again)
    fetch(source)
    print(f"{entry.name}: by {entry.publisher}. Licence: {entry.licence}", flush=True)
    state, taken = read_published(original)
    kind, model, *_ = convert(entry.converter, state, original)
    # A tensor of its own for each name, and nothing but its data.
    tensors: dict[str, Tensor] = {name: value.detach().clone().contiguous() for name, value in model.items()}
    facts = {"kind": kind, "source": entry.converter, "name": entry.name}
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
        "date": datetime.now(UTC).date().isoformat(),
    }
    with replace_atomically(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(record, indent=2) + "\n")
    original.unlink()


def _digest(entry: Entry, original: Path) -> str:
    """The digest of a published file; of a file of the hub without one in the index, that which the hub states."""
    if entry.digest or entry.hub is None or os.environ.get("DENSEUP_MIRROR") or original.exists():
        return entry.digest or ""
    from huggingface_hub import get_hf_file_metadata

    try:
        etag = get_hf_file_metadata(entry.address or "").etag or ""
    except Exception:  # offline, or not a hub: then fetching says so
        return ""
    return f"sha256:{etag}" if re.fullmatch("[0-9a-f]{64}", etag) else ""
