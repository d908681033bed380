"""The log of a run: what it prints, `log.jsonl`, and the sinks of `logging.sinks`."""

import errno
import json
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import Interrupted, UserError
from runtime.distributed import Processes
from runtime.sinks import Sink, SinkName, open_sinks
from runtime.sinks.terminal import Terminal
from runtime.state import DIVERGED
from storage import write_text


class RunLog:
    """The log of one run. It continues at `step`, the last step done, and `evaluated`, the last step evaluated.

    Entries that an earlier start wrote for later steps or evaluations are removed: that work is done again.
    steps: of the whole run. batch_size: over all processes. sinks: where numbers and pictures go, too. Every process
    has a RunLog and must call every method; only the main process writes. Losses stay on their device until `flush`,
    so that logging does not synchronise the device at every step.
    Raises UserError if a sink's package is missing or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        evaluated: int,
        steps: int,
        batch_size: int,
        processes: Processes,
        sinks: Sequence[SinkName] = ("tensorboard",),
    ) -> None:
        self.step, self.steps, self.batch_size, self.processes = step, steps, batch_size, processes
        self._folder = folder
        self._window: list[tuple[int, dict[str, Tensor], list[str], Tensor]] = []
        self._window_start, self._waited = time.perf_counter(), 0.0
        self._sinks: list[Sink] = []
        self.terminal = Terminal(step, steps, processes.is_main)
        if processes.is_main:
            self._lines = folder / "log.jsonl"
            with self._writing():
                kept = _drop_lines_after(self._lines, step, evaluated)
                # TensorBoard purges whole steps only. If the last step is not evaluated yet, purge it to drop its
                # evaluation, and write its losses again.
                purged = step + 1 if evaluated == step else step
                self._sinks = open_sinks(sinks, folder, purged, kept)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self.terminal.close()
        if isinstance(error, Interrupted):
            error.add_note(self._describe_end(error))
        if self.processes.is_main:
            for sink in self._sinks:
                sink.close()
                for problem in sink.problems():
                    self.print(problem)

    def add_losses(self, step: int, losses: dict[str, Tensor], failed: Tensor, image_ids: list[str]) -> None:
        """Keep the losses (detached scalars) of optimiser step number `step`, and the ids of its images.

        failed: bool scalar, whether the step was not taken since its gradient, in any process, is not finite.
        """
        self.step = step
        self._window.append((step, losses, image_ids, failed))
        self.terminal.bar.update()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context around what waits for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def flush(self, learning_rate: float) -> None:
        """Log the mean losses since the last flush, over all processes.

        Raises UserError in every process if a loss or the gradient of any process is not finite.
        """
        if not self._window:
            return
        names = sorted(self._window[0][1])
        values = torch.stack(
            [torch.stack([losses[name].float() for name in names]) for _, losses, *_ in self._window]
        ).cpu()
        self._refuse_non_finite(names, values)
        means = self.processes.mean(values.double()).mean(0).tolist()
        now = time.perf_counter()
        seconds = now - self._window_start
        rate = len(self._window) * self.batch_size / seconds
        waiting = self.processes.mean(torch.tensor([self._waited / seconds], dtype=torch.float64)).item()
        self._window, self._window_start, self._waited = [], now, 0.0
        record = {
            "loss": sum(means),
            **dict(zip(names, means, strict=True)),
            "learning_rate": learning_rate,
            "images_per_second": rate,
            "waiting_for_data": waiting,  # share of the time
            "memory_gb": _memory_gb(self.processes.device),  # in GiB
        }
        self._write("train", record)
        self.terminal.show_progress(self.step, record, (self.steps - self.step) * self.batch_size / rate)

    def add_evaluation(self, metrics: dict[str, float], seconds: float, headline: Sequence[str], best: str) -> None:
        """Log the metrics of one evaluation and its duration. headline: names of those to print; best: in the bar."""
        self._write("val", {**metrics, "seconds": seconds})
        self.print(f"step {self.step}: " + "  ".join(f"{name} {metrics[name]:.4g}" for name in headline))
        self.terminal.show_score(best, metrics[best])

    def add_note(self, text: str) -> None:
        """Print a line about the run and keep it in `log.jsonl`."""
        self.print(text)
        if self.processes.is_main:
            self._add_line("note", {"text": text})

    def restart_clock(self) -> None:
        """Count images per second and waiting from now on, and not what has happened since the last `flush`."""
        self._window_start, self._waited = time.perf_counter(), 0.0

    def add_picture(self, image_id: str, picture: np.ndarray) -> None:
        """Hand an RGB picture [H, W, 3] uint8 to the sinks and save it as pictures/step_N/IMAGE_ID.png."""
        if not self.processes.is_main:
            return
        path = self._folder / "pictures" / f"step_{self.step:08d}" / f"{image_id}.png"
        with self._writing():
            for sink in self._sinks:
                sink.add_picture(image_id, self.step, picture)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)

    def print(self, line: str) -> None:
        """Print a line, in the main process only."""
        self.terminal.print(line)

    def _describe_end(self, stop: Interrupted) -> str:
        """What is saved of a run that a signal stops, and how to go on."""
        end, folder = (
            f"{Signals(stop.signal_number).name} at step {self.step} of {self.steps}",
            self._folder / "checkpoints",
        )
        if stop.saved:
            return f"stopped by {end}, saved in {folder / 'last.pt'}; the same command goes on from there"
        return (
            f"stopped at once by {end}, not saved; the same command goes on from an earlier step, if {folder} has one"
        )

    def _refuse_non_finite(self, names: list[str], values: Tensor) -> None:
        lossless = ~values.isfinite().all(dim=1)
        bad = lossless | torch.stack([failed for *_, failed in self._window]).cpu()
        report = None
        if bad.any():
            index = int(bad.int().argmax())
            step, _, image_ids, _ = self._window[index]
            terms = ", ".join(f"{name} {value:g}" for name, value in zip(names, values[index].tolist(), strict=True))
            what = "the loss" if lossless[index] else "the gradient of the loss"
            report = step, not lossless[index], f"{what} is not finite ({terms}) on images {', '.join(image_ids)}"
        reports = [item for item in self.processes.collect(report) if item]
        if reports:  # the gradients of all processes are not finite if the loss of one is not
            step, _, what = min(reports)
            raise UserError(f"step {step}", what, DIVERGED)

    def _write(self, section: str, record: dict[str, float]) -> None:
        if not self.processes.is_main:
            return
        self._add_line(section, record)
        with self._writing():
            self._show(section, self.step, record)
        self._print_problems()

    def _add_line(self, section: str, record: dict[str, Any]) -> None:
        with self._writing(), self._lines.open("a") as file:
            file.write(json.dumps({"step": self.step, "section": section, **record}) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "free space or fix the permissions, then run the same command again"
            if error.errno == errno.ENAMETOOLONG:  # of a picture, which is named after its image
                advice = "run the same command again with evaluation.pictures=0"
            raise UserError(self._folder, f"cannot be written ({error})", advice) from None

    def _show(self, section: str, step: int, record: dict[str, float]) -> None:
        for sink in self._sinks:
            sink.add_numbers(section, step, record)

    def _print_problems(self) -> None:
        for sink in self._sinks:
            for problem in sink.problems():
                self.add_note(problem)


def _drop_lines_after(path: Path, step: int, evaluated: int) -> list[dict[str, Any]]:
    """Rewrite the log without later entries and lines cut short by a crash. Return the records that are kept."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    kept = [line for line in lines if _is_done(line, step, evaluated)]
    if lines:
        write_text(path, "".join(line + "\n" for line in kept))
    return [json.loads(line) for line in kept]


def _is_done(line: str, step: int, evaluated: int) -> bool:
    try:
        record = json.loads(line)
        if record["section"] == "note" and step == 0:  # a new start writes its own
            return False
        return bool(record["step"] <= (evaluated if record["section"] == "val" else step))
    except (ValueError, KeyError, TypeError):
        return False


def _memory_gb(device: torch.device) -> float:
    """Peak memory so far in GiB: of the tensors on a CUDA device, or of the process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
