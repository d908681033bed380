"""Commands of the repository in processes of their own, forked from one that has imported everything.

The suite starts hundreds of runs; forking saves each of them the seconds that importing PyTorch takes. The children
are real processes: they can be killed, run out of disk, or be several of one run.
"""

import importlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
Sabotage = Callable[[], None]  # done in the child before the command starts; importable, so that it can be pickled
# The last two are what a first optimiser step and a detector import, which takes seconds.
PRELOAD = ["train", "eval", "tools.predict", "tools.score", "tools.convert_weights.__main__", "tests.conftest"]
PRELOAD += ["torch._dynamo", "torchvision"]


@dataclass(frozen=True)
class Done:
    """How the processes of a command ended: exit codes (-N: killed by signal N), what they printed, seconds taken."""

    codes: list[int]
    out: str
    err: str
    seconds: float

    @property
    def code(self) -> int:
        """The exit code of the first process."""
        return self.codes[0]


class Running:
    """A command under way, in one process or several. `processes` are those of the standard library."""

    def __init__(self, module: str, words: Sequence[str], count: int, sabotage: Sequence[Sabotage]) -> None:
        context = _context()
        self._folder = Path(tempfile.mkdtemp(prefix="launch"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._start = time.monotonic()
        port = str(_free_port())
        self.processes = []
        for rank in range(count):
            environment = {"OMP_NUM_THREADS": "1"}
            if count > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
                environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
            arguments = (module, list(words), environment, list(sabotage), str(self._folder / str(rank)))
            process = context.Process(target=_child, args=arguments)
            process.start()
            self.processes.append(process)

    def out(self) -> str:
        """What has been printed so far."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.out")))

    def send(self, number: int = signal.SIGKILL, rank: int = 0) -> None:
        """Send a signal to one of the processes."""
        os.kill(self.processes[rank].pid, number)

    def wait(self, seconds: float = 120) -> Done:
        """Wait for the end of all. Raises TimeoutError, once they are dead, if that takes longer."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        hung = [process for process in self.processes if process.exitcode is None]
        for process in hung:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        taken = time.monotonic() - self._start
        err = "".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.err")))
        if hung:
            raise TimeoutError(f"not done after {seconds} s: {self.out()}{err}")
        return Done([process.exitcode for process in self.processes], self.out(), err, taken)


def start(module: str, *words: object, processes: int = 1, sabotage: Sequence[Sabotage] = ()) -> Running:
    """Start a command by its module (`train`, `tools.score`), in so many processes, each sabotaged in the same way."""
    return Running(module, [str(word) for word in words], processes, sabotage)


def run(
    module: str, *words: object, processes: int = 1, sabotage: Sequence[Sabotage] = (), seconds: float = 120
) -> Done:
    """The same, to its end."""
    return start(module, *words, processes=processes, sabotage=sabotage).wait(seconds)


def main_of(module: str) -> Callable[[], None]:
    """The command that `python -m MODULE` runs: of a package, that of its __main__.py."""
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    return found.main


def _context() -> multiprocessing.context.ForkServerContext:
    # The server is started with the environment of this process, from the root of the repository.
    os.environ["PYTHONPATH"], os.environ["OMP_NUM_THREADS"] = str(ROOT), "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _child(module: str, words: list[str], environment: dict[str, str], sabotage: list[Sabotage], output: str) -> None:
    os.setpgid(0, 0)
    for stream, suffix in ((1, ".out"), (2, ".err")):
        descriptor = os.open(output + suffix, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process of its own
    sys.stdin = open(os.devnull)  # noqa: SIM115 (as long as the process)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    os.chdir(ROOT)
    from errors import run_command

    for fault in sabotage:
        fault()
    sys.argv = [module, *words]
    run_command(main_of(module))
