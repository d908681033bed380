"""Strong scaling on CPU: `python -m benchmarks.scaling [--rounds 5] [--steps 10] [--json FILE]`.

The loop of train.py with the same total batch, in one process and in two, of one thread each. The efficiency is the
time of a step in one process, divided by twice its time in two. Two processes with half of the batch that know nothing
of each other show what the machine and the parts of a step that do not shrink allow. All take turns, a few steps at a
time, and the best round of each counts, since whatever else the machine does slows two processes more than one. Then
the formula of docs/scaling.md predicts the step of two processes from those of one and from the speed of gloo. Needs
two idle cores and data/scenes (`make scenes`).
"""

import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.pairs import Row, publish, row_of
from benchmarks.scaling_model import Machine, Recipe, step_of
from benchmarks.segformer_step import positive
from errors import ArgumentParser, run_command

ROOT = Path(__file__).parent.parent
# Goals of the efficiency, by demo and total batch.
GOALS = {("seg", 8): 0.85, ("seg", 16): 0.9, ("det", 8): None, ("det", 16): None}
EXCHANGES = {"seg": 4, "det": 3}  # of small tensors in a step, as counted: the stop vote, counts of the losses, a norm


def train_in_turns(cfg: str, overrides: list[str], steps: int) -> None:
    """Train, but wait for a line on stdin before every `steps` steps, and print their seconds after them."""
    import train
    from experiment import load_experiment
    from runtime.distributed import start_processes
    from runtime.memory import keep_freed_memory

    keep_freed_memory()
    read, calls, start = train.next_batches, count(), 0.0

    def paced(*arguments: Any) -> Any:
        nonlocal start
        done = next(calls)
        if done % steps == 0:
            if done:
                print(f"took {time.perf_counter() - start}", flush=True)
            if not sys.stdin.readline():  # the parent is gone
                os._exit(1)
            start = time.perf_counter()
        return read(*arguments)

    train.next_batches = paced  # type: ignore[assignment]
    train.train(load_experiment(cfg, overrides), start_processes("cpu"))


def exchange_speed(size: int, rounds: int = 20) -> None:
    """Print the median seconds of an all-reduce of `size` bytes and of one number; a process of two."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    for tensor in (torch.zeros(size // 4), torch.zeros(1)):
        seconds = []
        for _ in range(rounds):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(tensor)
            seconds.append(time.perf_counter() - start)
        print(f"took {statistics.median(seconds)}", flush=True)
    dist.destroy_process_group()


def start(count: int, together: bool, words_of: Callable[[int], list[str]]) -> "list[subprocess.Popen[str]]":
    """Start processes of this command, each with its words; together: as torchrun would."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    running = []
    for rank in range(count):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if together and count > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_PORT": port}
        command = [sys.executable, "-m", "benchmarks.scaling", *words_of(rank)]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe))
    return running


def answer(process: "subprocess.Popen[str]") -> float:
    """The seconds that a process prints next."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("took "):
            return float(line.split()[1])
    raise RuntimeError(f"a process ended with exit code {process.wait()}")


@dataclass
class Trainers:
    """Processes that train together (one run) or each for itself, and the seconds of a step so far."""

    cfg: str
    batch: int
    processes: int
    together: bool
    steps: int
    folder: str
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        never = [f"{key}=1000000" for key in ("steps", "evaluation.every", "logging.checkpoint_every")]
        batch = self.batch if self.together else self.batch // self.processes
        name = f"run_name={self.batch}_{self.processes}_{'together' if self.together else ''}"
        words = ["--steps", str(self.steps), "--train", self.cfg, f"batch_size={batch}", *never]
        self._running = start(
            self.processes, self.together, lambda rank: [*words, f"{name}{rank}", f"output_dir={self.folder}/{rank}"]
        )

    def run(self) -> None:
        """Do some steps."""
        for process in self._running:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        self.seconds.append(max(answer(process) for process in self._running) / self.steps)

    def end(self) -> None:
        """End the processes."""
        for process in self._running:
            process.kill()
            process.wait()


def measure(name: str, batch: int, rounds: int, steps: int) -> dict[str, float]:
    """Seconds of a step in one process, in two, and in two that exchange nothing, each in its best round."""
    kinds = {"one": (1, True), "two": (2, True), "independent": (2, False)}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            kind: Trainers(f"configs/small/{name}.yaml", batch, processes, together, steps, f"{folder}/{kind}")
            for kind, (processes, together) in kinds.items()
        }
        try:
            for _ in range(rounds):
                for each in trainers.values():
                    each.run()
        finally:
            for each in trainers.values():
                each.end()
    return {kind: min(each.seconds) for kind, each in trainers.items()}


def predictions(name: str, times: dict[int, dict[str, float]]) -> list[Row]:
    """The step of two processes by the formula, from two batches of one process and from the speed of gloo."""
    from experiment import load_experiment

    model = load_experiment(f"configs/small/{name}.yaml").build_model(pretrained=False)
    size = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    running = start(2, True, lambda _: ["--exchange", str(size)])
    large, small = answer(running[0]), answer(running[0])
    for process in running:
        process.communicate()
    (few, few_s), (many, many_s) = ((batch, found["one"]) for batch, found in sorted(times.items()))
    image_s = (many_s - few_s) / (many - few)
    machine = Machine("here", 1, size / (large - small), 0, small / 2, overlap=0, fixed=few_s - few * image_s)
    recipe = Recipe(name, image_s, size, EXCHANGES[name], decoded=math.inf, image_bytes=0)
    return [
        row_of(
            f"{name}: step of {batch} images, two processes, predicted",
            "the measured step",
            [step_of(recipe, machine, 2, batch / 2).total],
            [found["two"]],
        )
        for batch, found in times.items()
    ]


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=positive, default=10, help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=4, help="of a round; default: %(default)s")
    parser.add_argument("--only", choices=list(EXCHANGES), help="one of the demos")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--train", nargs="+", metavar="WORD", help="internal: a training process")
    parser.add_argument("--exchange", type=int, metavar="BYTES", help="internal: a process that exchanges")
    arguments = parser.parse_args()
    if arguments.train:
        train_in_turns(arguments.train[0], arguments.train[1:], arguments.steps)
        return
    if arguments.exchange:
        exchange_speed(arguments.exchange)
        return
    rows = []
    for demo in [arguments.only] if arguments.only else EXCHANGES:
        times = {
            batch: measure(demo, batch, arguments.rounds, arguments.steps) for name, batch in GOALS if name == demo
        }
        for batch, found in times.items():
            work, half, peer = f"{demo}: step of {batch} images,", [found["one"] / 2], "half of one process's"
            rows.append(row_of(f"{work} two processes", peer, [found["two"]], half, goal=GOALS[demo, batch]))
            rows.append(row_of(f"{work} two independent processes", peer, [found["independent"]], half))
        rows += predictions(demo, times)
    publish(rows, arguments.json, rounds=arguments.rounds, steps=arguments.steps, threads_per_process=1)


if __name__ == "__main__":
    run_command(main)
