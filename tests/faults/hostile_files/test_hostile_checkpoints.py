"""Files that are no checkpoints, or are made to harm, in every place where a checkpoint or weights can be given."""

import io
import os
import pickle
import random
import resource
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from runtime import checkpoint as module
from tests.conftest import ROOT, TINY
from tests.launch import Done, run

CHAPTER = "Hostile input"
CFG = "configs/small/seg.yaml"


@dataclass
class Call:
    """What calls `function` when it is unpickled."""

    function: Callable
    arguments: tuple

    def __reduce__(self) -> tuple:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Pickle wants to see that what it is to call can be called."""


class State(Call):
    """What calls `function` for the sake of its state."""

    def __reduce__(self) -> tuple:
        return dict, (), Call(self.function, self.arguments)


def gadgets(canary: Path) -> dict[str, Any]:
    """Values that make the file `canary` when they are unpickled without care."""
    touch, write = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    evil = io.BytesIO()
    torch.save(Call(os.system, (touch,)), evil)
    calls = {
        "os.system": Call(os.system, (touch,)),
        "subprocess": Call(subprocess.check_call, (["touch", str(canary)],)),
        "eval": Call(eval, (write,)),
        "exec": Call(exec, (write,)),
        "mkdir": Call(os.mkdir, (str(canary),)),
        "getattr": Call(Call(getattr, (Path(canary), "touch")), ()),
        "state": State(os.system, (touch,)),
        "load_from_bytes": Call(torch.storage._load_from_bytes, (evil.getvalue(),)),
        "numpy": Call(np.savetxt, (str(canary), [1])),
        "torch.save": Call(torch.save, (1, str(canary))),
    }
    return {
        **calls,
        "chain": {"a": [({"b": (Call(list, ([Call(os.system, (touch,))],)),)},)]},
        "module": nn.Linear(1, 1),
    }


def sealed(content: Any, path: Path) -> None:
    """With the checksum that our checkpoints carry."""
    module._write(content, path)


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def old_tar(content: Any, path: Path) -> None:
    """As PyTorch 0.1 wrote."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(content)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def rewritten(
    path: Path, change: Callable[[str, bytes], tuple[str, bytes]], compression: int = zipfile.ZIP_STORED
) -> None:
    """Change the entries of an archive, and seal it again."""
    with zipfile.ZipFile(path) as archive:
        entries = [change(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        archive.comment = bytes(module.COMMENT_LENGTH)
    with path.open("r+b") as file:
        digest = module._digest(file, path.stat().st_size - module.COMMENT_LENGTH - 2)
        file.seek(2, os.SEEK_CUR)
        file.write(module.LABEL + digest)


def shortened(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data[:4] if "/data/" in name else data


def inflated(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data + bytes(2**29) if name.endswith("/data/0") else data


def escaped(name: str, data: bytes) -> tuple[str, bytes]:
    return ("../../escaped" if name.endswith("/data/1") else name), data


def laughs(depth: int = 40) -> dict:
    """Nested dictionaries of a few bytes each that hold 2 ** depth values together."""
    value: dict = {}
    for _ in range(depth):
        value = {"a": value, "b": value}
    return value


def endless() -> dict:
    value: dict = {}
    value["model"] = value
    return value


def hostile(good: dict[str, Any], canary: Path) -> dict[str, Callable[[Path], None]]:
    """Ways to make a file at a path, by name. good: a checkpoint that fits."""
    model = good["model"]
    name, first = next(iter(model.items()))

    def with_model(tensors: dict) -> Callable[[Path], None]:
        return lambda path: sealed({**good, "model": tensors, "ema": None}, path)

    def with_first(tensor: torch.Tensor) -> Callable[[Path], None]:
        return with_model({**model, name: tensor})

    def with_entry(**entries: Any) -> Callable[[Path], None]:
        return lambda path: sealed({**good, **entries}, path)

    def bytes_of(data: bytes) -> Callable[[Path], None]:
        return lambda path: path.write_bytes(data)

    def changed(change: Callable, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            sealed(good, path)
            rewritten(path, change, compression)

        return make

    def cut(path: Path) -> None:
        sealed(good, path)
        path.write_bytes(path.read_bytes()[:-1000])

    files: dict[str, Callable[[Path], None]] = {}
    for format_ in (sealed, legacy, plain, old_tar):
        for gadget, value in gadgets(canary).items():
            content = {**good, "extra": value} if format_ is sealed else {"model": {**model, "extra": value}}
            files[f"gadget {gadget}, {format_.__name__}"] = lambda path, f=format_, c=content: f(c, path)
    files |= {
        "empty": bytes_of(b""),
        "text": bytes_of(b"not a checkpoint\n" * 100),
        "picture": lambda path: shutil.copy(ROOT / "docs/images/demo.jpg", path),
        "zeros": bytes_of(bytes(100_000)),
        "random bytes": bytes_of(random.Random(1).randbytes(100_000)),
        "only the name of a zip": bytes_of(b"PK\x03\x04"),
        "zip of nothing": bytes_of(b"PK\x05\x06" + bytes(18)),
        "cut": cut,
        "folder": lambda path: path.mkdir(),
        "pipe": lambda path: os.mkfifo(path),
        "endless device": lambda path: path.symlink_to("/dev/zero"),
        "circle of links": lambda path: path.symlink_to(path.name),
        "compressed": changed(inflated, zipfile.ZIP_DEFLATED),
        "shortened": changed(shortened),
        "names outside": changed(escaped),
        "tensor of a terabyte": with_first(torch.zeros(1).expand(10**12)),
        "sparse": with_first(torch.zeros(first.shape).to_sparse()),
        "no numbers behind": with_first(torch.zeros(first.shape, device="meta")),
        "foreign": lambda path: sealed({"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, path),
        "foreign, bare": lambda path: torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path),
        "other shape": with_first(torch.zeros(1)),
        "other kind": with_first(torch.zeros(first.shape, dtype=torch.int64)),
        "complex": with_first(torch.zeros(first.shape, dtype=torch.complex64)),
        "not a number": with_first(torch.full(first.shape, float("nan"))),
        "infinite": with_first(torch.full(first.shape, float("inf"))),
        "missing tensor": with_model({key: value for key, value in model.items() if key != name}),
        "extra tensor": with_model({**model, "a\nb\x1b[2J" + "c" * 100_000: first}),
        "numbers for names": with_model({7: first}),
        "words for tensors": with_model({**model, name: "word"}),
        "no tensors": with_model({}),
        "nested for ever": with_model(endless()),
        "laughs": with_model(laughs()),
        "list": lambda path: sealed([1, 2], path),
        "number": lambda path: sealed(3, path),
        "nothing": lambda path: sealed({}, path),
        "no model": lambda path: sealed({key: value for key, value in good.items() if key != "model"}, path),
        "step of a word": with_entry(step="many"),
        "laughing step": with_entry(step=laughs()),
        "config of a list": with_entry(config=[1]),
        "empty config": with_entry(config={}),
        "laughing config": with_entry(config={"steps": laughs()}),
        "config of another model": with_entry(config={**good["config"], "model": "maskformer"}),
        "huge number": with_entry(config={**good["config"], "steps": 10**5000}),
    }
    return files


def hostile_to_resume(good: dict[str, Any]) -> dict[str, Callable[[Path], None]]:
    """Checkpoints that can be evaluated, but not gone on from."""
    states = good["optimizer"]["state"]
    other = {index: {key: torch.zeros(3, 3) for key in values} for index, values in states.items()}
    entries = {
        "step beyond the end": {"step": 10**9},
        "step before the start": {"step": -1},
        "no optimiser": {"optimizer": {}},
        "optimiser of a word": {"optimizer": "adam"},
        "optimiser without groups": {"optimizer": {"state": states, "param_groups": []}},
        "optimiser of other shapes": {"optimizer": {**good["optimizer"], "state": other}},
        "optimiser of words": {"optimizer": {**good["optimizer"], "state": dict.fromkeys(states, "word")}},
        "best of a word": {"best": "best"},
        "scaler of a word": {"scaler": "word"},
        "evaluated at a word": {"evaluated": "word"},
    }
    return {name: lambda path, e=entry: sealed({**good, **e}, path) for name, entry in entries.items()}


def hostile_arrays(canary: Path) -> dict[str, tuple[str, Callable[[Path], None]]]:
    """Suffix, and a way to make a file, for the formats that only the converter reads."""

    def header(text: str, data: bytes = b"") -> Callable[[Path], None]:
        return lambda path: path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data)

    tensor = '{"a": {"dtype": "F32", "shape": %s, "data_offsets": [0, %d]}}'
    files: dict[str, tuple[str, Callable[[Path], None]]] = {
        "header beyond the end": (".safetensors", lambda path: path.write_bytes(b"\xff" * 8 + b"{}")),
        "no header": (".safetensors", header("[" * 100_000)),
        "large shape": (".safetensors", header(tensor % ("[1000000000000]", 4), bytes(4))),
        "large offset": (".safetensors", header(tensor % ("[1]", 10**15), bytes(4))),
        "empty of a large shape": (".safetensors", header(tensor % ("[1000000000000]", 0))),
        "negative shape": (".safetensors", header(tensor % ("[-1]", 4), bytes(4))),
        "pipe.safetensors": (".safetensors", lambda path: os.mkfifo(path)),
        "pipe.pkl": (".pkl", lambda path: os.mkfifo(path)),
        "array from nothing": (".pkl", lambda path: plain({"a": Call(np.ndarray, ((10**9,),))}, path)),
        "array of objects": (".pkl", lambda path: plain({"a": np.array([None, 1])}, path)),
        "laughs.pkl": (".pkl", lambda path: plain(laughs(), path)),
        "endless.pkl": (".pkl", lambda path: plain(endless(), path)),
        "no number.pkl": (".pkl", lambda path: plain({"model": {"a": np.full(3, np.nan, np.float32)}}, path)),
    }
    for name, value in gadgets(canary).items():
        files[f"gadget {name}.pkl"] = ".pkl", lambda path, v=value: plain({"model": {"a": v}}, path)
    return files


def leave_a_gigabyte() -> None:
    """So that whatever grows without bound ends here, and not the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def refused(done: Done, named: str) -> bool:
    line = (
        done.err.startswith("error: ") and done.err.count("\n") == 1 and done.err.count(": ") >= 2 and "; " in done.err
    )
    short = len(done.err) < 4000 and done.err.strip().isprintable()
    return done.code == 2 and line and short and named in done.err and done.seconds < 5


@pytest.fixture(scope="module")
def options(scenes) -> list[str]:
    return [*TINY, f"data.root={scenes}/ADEChallengeData2016", "evaluation.pictures=0"]


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    words = ["steps=2", "evaluation.every=2", f"output_dir={folder}"]
    done = run("train", "--cfg", CFG, *options, *words)
    assert done.code == 0, done.err
    return folder / "seg"


def test_hostile_files(options, trained, tmp_path, every, tally):
    canary, out = tmp_path / "canary", tmp_path / "out"
    good = torch.load(trained / "checkpoints/last.pt", weights_only=True)
    commands: dict[str, Callable[[Path], tuple]] = {
        "eval": lambda path: ("eval", "--checkpoint", path),
        "eval with a file": lambda path: ("eval", "--checkpoint", path, "--cfg", CFG, *options),
        "weights": lambda path: ("train", "--cfg", CFG, *options, f"output_dir={out}", f"model.weights={path}"),
        "convert": lambda path: ("tools.convert_weights", "--from", "segformer", path, out / "converted.pt"),
    }
    cases = [(name, make, ".pt", command) for name, make in hostile(good, canary).items() for command in commands]
    cases += [(name, make, suffix, "convert") for name, (suffix, make) in hostile_arrays(canary).items()]
    # The config of a checkpoint is no concern of whoever takes its weights alone.
    harmless = {("weights", key) for key in ("step of a word", "laughing step", "huge number")}
    harmless |= {("weights", name) for name, *_ in cases if "config" in name}
    harmless |= {("eval with a file", name) for name, *_ in cases if "config" in name or name == "huge number"}
    cases = [case for case in cases if (case[3], case[0]) not in harmless]
    if not every:
        cases = random.Random(0).sample(cases, 14)
    lost = []
    for number, (name, make, suffix, command) in enumerate(cases):
        path = tmp_path / f"file{number}{suffix}"
        make(path)
        before = content_of(path)
        done = run(*commands[command](path), sabotage=[leave_a_gigabyte], seconds=30)
        sound = refused(done, path.name) and not canary.exists() and content_of(path) == before
        sound &= not list(out.rglob("*.pt"))
        if not sound:
            lost.append((name, command, done))
        if canary.exists():
            canary.rmdir() if canary.is_dir() else canary.unlink()
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    what = (
        "hostile, damaged and foreign files to eval.py, train.py and the converter: one line that names the file, exit "
    )
    what += "code 2, below 5 s, nothing run, nothing written"
    tally(CHAPTER, what, tried=len(cases), lost=len(lost))
    assert not lost, "\n".join(f"{name} / {command}: {done}" for name, command, done in lost)


@pytest.mark.slow
def test_hostile_files_in_the_place_of_a_run_s_checkpoint(options, trained, tmp_path, every, tally):
    resumed = ["--cfg", CFG, *options, "steps=2", "evaluation.every=2", f"output_dir={tmp_path}"]
    canary, last, lost = tmp_path / "canary", tmp_path / "seg/checkpoints/last.pt", []
    good = torch.load(trained / "checkpoints/last.pt", weights_only=True)
    shutil.copytree(trained, tmp_path / "seg")
    files = {**hostile(good, canary), **hostile_to_resume(good)}
    if not every:
        files = dict(random.Random(0).sample(sorted(files.items()), 6))
    for name, make in files.items():
        shutil.rmtree(last.parent)
        last.parent.mkdir()
        make(last)
        before = content_of(last)
        done = run("train", *resumed, sabotage=[leave_a_gigabyte], seconds=30)
        if not (refused(done, "last.pt") and not canary.exists() and content_of(last) == before):
            lost.append((name, done))
        if canary.exists():
            canary.rmdir() if canary.is_dir() else canary.unlink()
    what = (
        "hostile, damaged and foreign files in the place of a run's only checkpoint: one line, exit code 2, left alone"
    )
    tally(CHAPTER, what, tried=len(files), lost=len(lost))
    assert not lost, "\n".join(f"{name}: {done}" for name, done in lost)
