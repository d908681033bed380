"""Compile a C++ file of this package when it is first needed, which takes a second, and keep the result for later.

The compiler is `c++`, or CXX; the result is kept in DENSEUP_CACHE, by default ~/.cache/denseup. DENSEUP_CPU_KERNELS=0
switches compiled code off. Without a C++ compiler, or if anything fails, there is none either, and its callers use
PyTorch's operators.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SWITCH = "DENSEUP_CPU_KERNELS"
_OPTIONS = [
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-fPIC",
    "-shared",
    "-pthread",
]
# For the instructions that PyTorch itself uses on this processor. The names are those of GCC and Clang.
_INSTRUCTIONS = {"AVX512": ["-march=x86-64-v4"], "AVX2": ["-march=x86-64-v3"]}
_SECONDS = 60  # a compiler that takes longer is stopped; usual is one


@functools.cache
def load(source: Path, *headers: Path) -> ctypes.CDLL | None:
    """The functions of a C++ file with a C interface, or None if it cannot be compiled here. headers: it includes."""
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    command = [*compiler, *_OPTIONS, *_INSTRUCTIONS.get(capability, [])]
    parts = " ".join(command), platform.platform(), *(file.read_text() for file in (source, *headers))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    try:
        return _load_from(_folder(), f"{source.stem}_{key}.so", command, source)
    except OSError:
        pass
    try:  # a home that is not writable: for this process alone
        with tempfile.TemporaryDirectory() as folder:
            return _load_from(Path(folder), f"{source.stem}.so", command, source)
    except OSError:
        return None


def _load_from(folder: Path, name: str, command: list[str], source: Path) -> ctypes.CDLL | None:
    library = folder / name
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that start together each compile a file of their own; the last to finish leaves its.
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / name
            try:
                subprocess.run(
                    [*command, "-o", str(made), str(source)], capture_output=True, timeout=_SECONDS, check=True
                )
            except subprocess.SubprocessError:
                return None
            os.replace(made, library)
    return ctypes.CDLL(str(library))


def _folder() -> Path:
    return Path(os.path.expanduser(os.environ.get("DENSEUP_CACHE") or "~/.cache/denseup")) / "compiled"
