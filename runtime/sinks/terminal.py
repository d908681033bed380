"""What a run prints: lines and, if the main process has a terminal, a progress bar under them."""

import sys
from collections.abc import Mapping

from tqdm import tqdm


class Terminal:
    """The output of a run of `steps` steps, of which `step` are done. Only the main process prints.

    has_bar: whether there is a bar, as on a terminal; a file or a pipe gets lines alone. bar: of steps.
    """

    def __init__(self, step: int, steps: int, is_main: bool) -> None:
        self.is_main, self.has_bar = is_main, is_main and sys.stderr.isatty()
        self._score = ""
        self.bar = tqdm(
            total=steps,
            initial=step,
            disable=not self.has_bar,
            dynamic_ncols=True,
            bar_format="{n_fmt}/{total_fmt} |{bar}| {remaining} left  {desc}",
        )

    def print(self, line: str) -> None:
        """Print a line, above the bar."""
        if self.is_main:
            tqdm.write(line) if self.has_bar else print(line, flush=True)

    def show_score(self, name: str, value: float) -> None:
        """Show a metric in the bar from now on."""
        self._score = f"  {name} {value:.4g}"

    def show_progress(self, step: int, record: Mapping[str, float], seconds_left: float) -> None:
        """Show the record of some steps: in the bar, or as a line of its own."""
        loss, rate = f"loss {record['loss']:.4f}", f"{record['images_per_second']:.1f} images/s"
        waiting, memory = f"{record['waiting_for_data']:.0%} waiting", f"{record['memory_gb']:.1f} GB"
        if self.has_bar:
            self.bar.set_description_str(f"{loss}{self._score}  {rate}  {waiting}  {memory}")
            return
        what = f"{loss}  lr {record['learning_rate']:.2e}  {rate}  {waiting} for data  {memory}"
        self.print(f"step {step}/{self.bar.total}  {what}  {tqdm.format_interval(seconds_left)} left")

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
