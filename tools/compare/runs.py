"""The runs of a comparison: ordinary runs of train.py, each in a process and a folder of its own."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any

import torch
import yaml

from errors import Interrupted, UserError
from experiment import Experiment, load_experiment
from runtime.changes import PLACES, changes
from runtime.signals import StopSignals
from runtime.state import DIVERGED

TRAIN = Path(__file__).parent.parent.parent / "train.py"
POLL_SECONDS = 0.1
GO_ON = "the same command goes on from there"


@dataclass(frozen=True, eq=False)
class Run:
    """One run of train.py. name: for messages. arguments: of train.py. experiment: made from the arguments."""

    name: str
    arguments: list[str]
    experiment: Experiment

    @property
    def folder(self) -> Path:
        """The folder of the run's files."""
        return self.experiment.run_folder

    @property
    def output(self) -> Path:
        """The file with the output of train.py."""
        return self.folder / "output.txt"

    def commit(self) -> str:
        """The git commit of the code that the run was last started with."""
        path = self.folder / "commit.txt"
        return path.read_text().strip() if os.path.exists(path) else "unknown"

    def evaluations(self) -> dict[int, dict[str, float]]:
        """The metrics of every evaluation so far, by step, from log.jsonl (all digits)."""
        others = {"step", "section", "seconds"}
        return {
            line["step"]: {name: value for name, value in line.items() if name not in others}
            for line in self._log("val")
        }

    def final_metrics(self) -> dict[str, float]:
        """The metrics of the last step of a finished run."""
        return self.evaluations()[self.experiment.steps]

    @property
    def finished(self) -> bool:
        """Whether the last step has been evaluated."""
        return self.experiment.steps in self.evaluations()

    @property
    def begun(self) -> bool:
        """Whether it goes on from a checkpoint."""
        return os.path.exists(self.folder / "checkpoints")

    def seconds_per_step(self) -> float | None:
        """Median of the seconds per step that are logged; None if the log is empty."""
        rates = [line["images_per_second"] for line in self._log("train")]
        return self.experiment.batch_size / statistics.median(rates) if rates else None

    def check_settings(self) -> None:
        """Raise UserError if the folder holds a run with other settings, or one whose config.yaml cannot be read.

        For a run that is still to start, raise it if weights that it needs are missing.
        """
        path = self.folder / "config.yaml"
        if not self.begun and not self.finished:
            self.experiment.fetch_weights()
            return
        try:
            before = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise UserError(path, "is missing or damaged", f"remove {self.folder} to repeat that run")
        for change in changes(before, self.experiment):
            if change.key not in PLACES:  # a run of more steps is another run
                what = f"the run in {self.folder} was made with {change.old}"
                raise UserError(f"{self.name}: {change.key}={change.new}", what, "choose another --out")

    def _log(self, section: str) -> list[dict[str, Any]]:
        path = self.folder / "log.jsonl"
        if not os.path.exists(path):
            return []
        lines = []
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
                if line["section"] == section:
                    lines.append(line)
            except (ValueError, KeyError, TypeError):  # cut short by a crash; train.py will write this line again
                break
        return lines


@dataclass(frozen=True)
class Comparison:
    """A comparison of variants. variants: their KEY=VALUE overrides, by name. seeds: for every variant.

    overrides: for all variants. baseline: the variant that the others are compared with. metric: the one that is
    tested; all are recorded. The run of a variant with seed N lies in out/VARIANT/seed_N.
    """

    cfg: Path
    overrides: list[str]
    variants: dict[str, list[str]]
    baseline: str
    seeds: range
    out: Path
    metric: str
    lower_is_better: bool

    @cached_property
    def paired(self) -> dict[str, list[Run]]:
        """The runs of every variant, in order of the seeds."""
        return {variant: [self._run(variant, seed) for seed in self.seeds] for variant in self.variants}

    @cached_property
    def control(self) -> list[Run]:
        """Runs of the baseline with as many other seeds, the ones that follow."""
        others = range(self.seeds.stop, self.seeds.stop + len(self.seeds))
        return [self._run(self.baseline, seed) for seed in others]

    @cached_property
    def repeat(self) -> Run:
        """The first run of the baseline, done a second time."""
        return self._run(self.baseline, self.seeds.start, "_again")

    @property
    def runs(self) -> list[Run]:
        """All runs. They are ordered by seed, so that variants can be paired even after an interruption."""
        rows = zip(*self.paired.values(), strict=True)
        return [*(run for row in rows for run in row), self.repeat, *self.control]

    def _run(self, variant: str, seed: int, suffix: str = "") -> Run:
        folder = [f"output_dir={self.out / variant}", f"run_name=seed_{seed}{suffix}"]
        overrides = [*self.overrides, *self.variants[variant], f"seed={seed}", *folder]
        name = f"{variant}, seed {seed}{suffix.replace('_', ' ')}"
        return Run(name, ["--cfg", str(self.cfg), *overrides], load_experiment(self.cfg, overrides).in_steps())


class DivergedError(UserError):
    """A run ended because a loss was not finite."""

    def __init__(self, run: Run, what: str) -> None:
        do = "choose another --out and settings with which no variant diverges, or leave this variant out"
        super().__init__(run.name, what, do)
        self.run = run


def run_places(jobs: int, device: str) -> list[dict[str, str]]:
    """Places for runs that go on at a time, `jobs` on each CUDA device or on the CPU: environment variables of each.

    device: its type, "cuda" or "cpu".
    """
    if device != "cuda":
        return [{}] * jobs
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(index) for index in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": name} for _ in range(jobs) for name in names]


def run_all(
    runs: Sequence[Run],
    places: Sequence[Mapping[str, str]],
    threads: int,
    after: Callable[[Run], None] = lambda run: None,
) -> None:
    """Do the runs in this order, one at a time in each of `places`, with `threads` threads each; call `after` each one.

    Finished runs are skipped. Raises UserError if a run fails, and Interrupted after a stop signal; the runs in
    progress are stopped first, and save.
    """
    waiting = [run for run in runs if not run.finished]
    count, done = len(waiting), 0
    free = list(places)
    active: dict[Run, tuple[Popen[bytes], Mapping[str, str]]] = {}
    with StopSignals() as stop:
        try:
            while waiting or active:
                while waiting and free:
                    run, place = waiting.pop(0), free.pop(0)
                    active[run] = _start(run, threads, place), place
                for run in [run for run, (process, _) in active.items() if process.poll() is not None]:
                    process, place = active.pop(run)
                    free.append(place)
                    _check_end(run, process.returncode)
                    done += 1
                    scores = "  ".join(f"{name} {value:.4g}" for name, value in run.final_metrics().items())
                    print(f"run {done} of {count}, {run.name}: {scores}", flush=True)
                    after(run)
                if stop.received is not None:
                    raise Interrupted(stop.received)
                if active:
                    time.sleep(POLL_SECONDS)
        except Interrupted as stopped:
            left = f"{count - done} runs are left, and those in progress have saved"
            stopped.add_note(f"stopped by {signal.Signals(stopped.signal_number).name}: {left}; {GO_ON}")
            raise
        finally:
            _stop([process for process, _ in active.values()])


def _start(run: Run, threads: int, place: Mapping[str, str]) -> Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **place}
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "commit.txt").write_text(f"{current_commit()}\n")
        output = run.output.open("w")
    except OSError as error:
        raise UserError(run.folder, f"cannot be written ({error})", "choose another --out") from None
    with output:
        # In its own process group the run does not get Ctrl-C from the terminal; this process passes it on once.
        return Popen(
            [sys.executable, str(TRAIN), *run.arguments],
            stdout=output,
            stderr=STDOUT,
            env=environment,
            process_group=0,
        )


def current_commit() -> str:
    """The git commit of this repository, with a note if Python or YAML files have changed; "unknown" without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(TRAIN.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            " with changes" if git("status", "--porcelain", "--", "*.py", "*.yaml") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _stop(processes: Sequence[Popen[bytes]]) -> None:
    """Ask the processes to save and stop, and wait for them. A second Ctrl-C kills them."""
    try:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
    except Interrupted:
        for process in processes:
            process.kill()
            process.wait()
        raise


def _check_end(run: Run, code: int) -> None:
    lines = run.output.read_text(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if code == 2 and errors:
        what, _, do = errors[-1].rpartition("; ")
        raise DivergedError(run, what) if do == DIVERGED else UserError(run.name, what, do)
    if code - 128 in set(signal.Signals):  # stopped from outside, after saving
        raise Interrupted(code - 128)
    if code < 0:
        what = f"was ended by {signal.Signals(-code).name} (SIGKILL often means: out of memory)"
        raise UserError(run.name, what, "run the same command again: the run resumes from its last checkpoint")
    if code != 0:
        last = lines[-1] if lines else "no output"
        raise UserError(run.name, f"train.py failed with exit code {code} ({last})", f"see {run.output}")
    if not run.finished:
        what = "has ended, but its log.jsonl lacks the score of the last step"
        raise UserError(run.name, what, f"remove {run.folder} and run the same command again")
