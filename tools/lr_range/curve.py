"""The rates of a range test, its smoothed losses, what they suggest, and their picture."""

from pathlib import Path
from typing import Any

SMOOTHING = 0.9  # weight of the past in the moving average of the loss
BELOW_LOWEST = 0.1  # of the rate of the lowest loss: the suggestion


def rates_between(low: float, high: float, steps: int) -> list[float]:
    """`steps` rates from low to high, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def smooth(losses: list[float]) -> list[float]:
    """The exponential moving average, corrected for its start."""
    smoothed, average = [], 0.0
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def suggest_rate(rates: list[float], smoothed: list[float]) -> float | None:
    """A tenth of the rate with the lowest smoothed loss, to two digits; None if the loss did not fall or still falls.

    Of a loss that still falls at the largest rate, nobody has seen what is too much.
    """
    lowest = smoothed.index(min(smoothed))
    if lowest == 0 or lowest == len(smoothed) - 1:
        return None
    return float(f"{BELOW_LOWEST * rates[lowest]:.1e}")


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the losses over the rates as a PNG."""
    from matplotlib.figure import Figure  # imported here because it is slow

    figure = Figure(figsize=(6.5, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(record["rates"], record["losses"], color="0.8", linewidth=0.8, label="loss")
    axes.plot(record["rates"], record["smoothed"], color="tab:blue", label="smoothed")
    if record["suggested"]:
        axes.axvline(record["suggested"], color="black", linestyle="--", label=f"suggested: {record['suggested']:g}")
    top = max(record["smoothed"][0], min(record["smoothed"])) * 1.3
    axes.set(xscale="log", xlabel="optimizer.lr", ylabel="loss", ylim=(min(record["losses"]) * 0.9, top))
    axes.legend()
    axes.set_title(f"{record['cfg']}: learning-rate range test", fontsize=9)
    figure.savefig(path, format="png", metadata={"Software": None})
