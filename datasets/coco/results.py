"""A JSON file with the results of all images, as COCO's tools read it, written by all processes together."""

import json
import os
from contextlib import ExitStack, suppress
from io import BufferedWriter
from pathlib import Path
from typing import Any

import torch.distributed as dist

from datasets.coco.values import unique_keys, whole_number
from datasets.files.paths import problem_with
from errors import UserError
from structures import image_sort_key

FILE_NAME = "predictions.json"

ImageId = int | str


class ResultFile:
    """A JSON file with a list of records. path: a .json file, or the folder of predictions.json.

    head, tail: the text before and after the list in the file. Each process writes its records to a part file of its
    own; `finish` merges them by ascending image id. All processes must share a file system.
    """

    def __init__(self, path: Path, head: str = "", tail: str = "") -> None:
        is_file = os.path.isfile(path) or (path.suffix == ".json" and not os.path.isdir(path))
        self.path = path if is_file else path / FILE_NAME
        self._head, self._tail = head.encode(), tail.encode()
        self._part: BufferedWriter | None = None
        self._written: dict[ImageId, tuple[int, int]] = {}  # start and length of an image's records in the part file

    def check_new(self, image_id: ImageId) -> None:
        """Raise UserError if this process has already added this image; then nothing is left of the others either."""
        if image_id in self._written:
            self.discard()
            raise UserError(self.path, f"two images have the id {image_id}", "rename one, or predict them separately")

    def add(self, image_id: ImageId, records: list[str]) -> None:
        """Store the records of one image, each as JSON. Raises UserError if the file cannot be written."""
        text = ",\n".join(records).encode()
        try:
            if self._part is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._part = self._part_file(_rank()).open("wb")
            self._written[image_id] = self._part.tell(), len(text)
            self._part.write(text)
        except OSError as error:
            self.discard()
            raise unwritable(self.path, error) from None

    def discard(self) -> None:
        """Remove what this process has added so far."""
        if self._part is not None:
            self._close()
            with suppress(OSError):
                self._part_file(_rank()).unlink()
        self._part, self._written = None, {}

    def finish(self) -> None:
        """Merge the records of all processes into the file. If that is impossible, all of them raise UserError."""
        own = self._written, self._close()
        processes: list[Any] = [own]
        if dist.is_initialized():
            processes = [None] * dist.get_world_size()
            dist.gather_object(own, processes if _rank() == 0 else None)
        outcome: list[UserError | None] = [None]
        if _rank() == 0:
            problems = [problem for _, problem in processes if problem is not None]
            outcome = [problems[0] if problems else self._merge([written for written, _ in processes])]
        if dist.is_initialized():
            dist.broadcast_object_list(outcome)
        self._part, self._written = None, {}
        if outcome[0] is not None:
            raise outcome[0]

    def read(self) -> Any:
        """The content of the file. Raises UserError if it is missing or not JSON."""
        file = self.path
        if problem := problem_with(file, "file"):
            raise UserError(file, problem, f"name a file of COCO results, or the folder of {FILE_NAME}")
        try:
            return json.loads(file.read_bytes(), object_pairs_hook=unique_keys)
        except OSError as error:
            raise UserError(file, f"cannot be read ({error.strerror})", "check the disk and the permissions") from None
        except (ValueError, RecursionError) as error:
            raise UserError(file, f"is not JSON, or incomplete ({error})", "write the predictions again") from None

    def _close(self) -> UserError | None:
        try:
            if self._part is not None:
                self._part.close()
        except OSError as error:
            return unwritable(self.path, error)
        return None

    def _merge(self, written: list[dict[ImageId, tuple[int, int]]]) -> UserError | None:
        pieces = sorted(
            (image_sort_key(image_id), rank, *span)
            for rank, spans in enumerate(written)
            for image_id, span in spans.items()
        )
        file = self.path
        new = file.with_name(f"{file.name}.new")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                merged = stack.enter_context(new.open("wb"))
                ranks = [rank for rank, spans in enumerate(written) if spans]
                parts = {rank: stack.enter_context(self._part_file(rank).open("rb")) for rank in ranks}
                merged.write(self._head)
                separator = b"[\n"
                for _, rank, start, length in pieces:
                    if length > 0:
                        parts[rank].seek(start)
                        merged.write(separator + parts[rank].read(length))
                        separator = b",\n"
                merged.write(b"\n]" if separator == b",\n" else b"[]")
                merged.write(self._tail + b"\n")
            os.replace(new, file)
            for rank in ranks:
                self._part_file(rank).unlink()
        except OSError as error:
            return unwritable(file, error)
        return None

    def _part_file(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}.part{rank}")


def image_id_of(text: ImageId) -> ImageId:
    """The id as a number if it consists of digits: COCO's image files are named by their ids with leading zeros."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20 else text


def stored_image_id(value: Any) -> ImageId | None:
    """The id that a record has, with whole floats and texts of digits as numbers; None if it can be none."""
    return image_id_of(value) if isinstance(value, str) else whole_number(value)


def unwritable(path: Path, error: OSError) -> UserError:
    """The error for results that cannot be written to `path`."""
    return UserError(path, f"cannot be written ({error.strerror})", "make room or name another folder")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
