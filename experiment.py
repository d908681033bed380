"""What one run consists of: the root of every YAML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr

from config import Schema, dump, read_config, validate
from datasets import DataConfig
from datasets.loading import BatchLayout
from datasets.transforms import Pad, RandomCrop, ResizeFit
from errors import UserError, suggest
from metrics import MetricConfig
from metrics.base import Metric
from models import ModelConfig
from models.base import DenseModel
from runtime.distributed import Processes
from runtime.optimizer import OptimizerConfig
from runtime.schedule import ScheduleConfig
from structures import Size

# Beyond these it is a slip of the hand, which would fill the memory before anything else could complain.
ImageCount = Annotated[int, Field(gt=0, le=2**20)]
WorkerCount = Annotated[int, Field(ge=0, le=1024)]


class EvaluationConfig(Schema):
    """When and how to score.

    every: in optimiser steps; the last step is always scored. batch_size: images at once per process, of which only
    the rounding of the network's numbers depends. pictures: so many validation images are drawn after every evaluation.
    best: the number by which the best checkpoint is chosen; None: the primary one of the first metric.
    """

    every: PositiveInt
    batch_size: ImageCount = 1
    pictures: NonNegativeInt = 8
    best: str | None = None


class LoggingConfig(Schema):
    """How often, in optimiser steps, to log losses and to save the last checkpoint."""

    every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000


class SystemConfig(Schema):
    """The machine. Nothing here changes what is learnt, beyond rounding, with one exception: max_per_process.

    Where a loss is a mean over objects, or no mean at all as that of depth, rounds of accumulation are averaged.
    workers: data-loading processes per training process. max_per_process: the most images that fit in one process at
    once; more are accumulated. channels_last, compile: memory layout and torch.compile.
    reuse_memory: on CPU let glibc keep freed memory (see runtime/memory.py). deterministic: train with deterministic
    algorithms alone, so that equal runs end bit-equal on CUDA too; an operation that has none is an error.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: WorkerCount = 4
    max_per_process: PositiveInt | None = None
    channels_last: bool = False
    compile: bool = False
    reuse_memory: bool = True
    deterministic: bool = False


class Experiment(Schema):
    """One run. batch_size: over all processes and accumulation rounds. precision: of autocast; weights stay float32.

    gradient_clip: largest total gradient norm. ema_decay: keep, evaluate and save an exponential moving average of the
    weights. sync_batch_norm: batch statistics over all processes.
    """

    run_name: Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]
    output_dir: Path = Path("runs")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: PositiveInt
    batch_size: ImageCount
    model: ModelConfig
    data: DataConfig
    metrics: Annotated[tuple[MetricConfig, ...], Field(min_length=1)]
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    gradient_clip: PositiveFloat | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    sync_batch_norm: bool = True
    evaluation: EvaluationConfig
    logging: LoggingConfig = LoggingConfig()
    system: SystemConfig = SystemConfig()

    _source: str = PrivateAttr("")

    @property
    def run_folder(self) -> Path:
        """Where the run keeps its files."""
        return self.output_dir / self.run_name

    def build_model(self, pretrained: bool = True) -> DenseModel:
        """The model on CPU, its weights drawn from `seed`; `pretrained`: then loaded from the files that it names."""
        torch.manual_seed(self.seed)
        try:
            return self.model.build(self.data.info, pretrained=pretrained)
        except (ValueError, RuntimeError, MemoryError) as error:
            # A combination of sizes that a component refuses, or PyTorch because no memory holds it.
            what = str(error).partition("\n")[0] or "the memory does not hold it"
            raise UserError(f"{self._source}: model", what, "change the model's options") from error

    def build_metrics(self) -> list[Metric]:
        """Fresh metrics."""
        return [metric.build(self.data.info) for metric in self.metrics]

    @property
    def input_size(self) -> Size:
        """Size of a training image, by which costs are counted."""
        for transform in reversed(self.data.train_transforms):
            if isinstance(transform, Pad | RandomCrop):
                return transform.size
            if isinstance(transform, ResizeFit):
                return transform.short, transform.long
        return 512, 512

    def padded_input(self, model: DenseModel) -> Size:
        """(height, width) of a training image, rounded up to what the model asks for."""
        height, width = self.input_size
        divisor = model.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def best_metric(self) -> tuple[str, bool]:
        """What the best checkpoint is chosen by, and whether lower is better. UserError if no metric gives it."""
        metrics = self.build_metrics()
        name = metrics[0].primary if self.evaluation.best is None else self.evaluation.best
        names = [name for metric in metrics for name in metric.names]
        if len(set(names)) < len(names):
            raise UserError(f"{self._source}: metrics", "two of them give the same numbers", "remove one")
        if name not in names:
            raise UserError(f"{self._source}: evaluation.best", f"no metric {name}", suggest(name, names))
        return name, any(name in metric.lower_is_better for metric in metrics)

    def weight_files(self) -> list[str]:
        """The files of pretrained weights that the model names."""
        return _values_of("weights", self.dump()["model"])

    def autocast(self, device: torch.device) -> torch.autocast:
        """The mixed-precision context of `precision`."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(device.type, dtype=dtype, enabled=self.precision != "fp32")

    def batch_layout(self, processes: Processes) -> BatchLayout:
        """The fewest accumulation rounds that respect `system.max_per_process`. UserError if nothing divides evenly."""
        each, rest = divmod(self.batch_size, processes.count)
        if rest:
            what = f"{self.batch_size} images do not divide among {processes.count} processes"
            raise UserError(f"{self._source}: batch_size", what, f"use a multiple of {processes.count}")
        limit = self.system.max_per_process or each
        rounds = next(count for count in range(1, each + 1) if each % count == 0 and each // count <= limit)
        return BatchLayout(each // rounds, rounds, processes.count, processes.rank)

    def dump(self) -> dict[str, Any]:
        """The configuration as plain values, every default spelled out."""
        return dump(self)


def load_experiment(cfg: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a YAML file with `KEY=VALUE` overrides; reads no data. Raises UserError for anything wrong."""
    config = read_config(cfg, overrides)
    return make_experiment({"run_name": Path(cfg).stem, **config}, str(cfg))


def make_experiment(config: dict[str, Any], source: str) -> Experiment:
    """The experiment of a mapping that came from `source`."""
    experiment = validate(Experiment, config, source)
    experiment._source = source
    return experiment


def _values_of(key: str, node: Any) -> list[Any]:
    """Every value under `key`, however deep, that is not None."""
    if not isinstance(node, dict):
        return []
    below = [value for item in node.values() for value in _values_of(key, item)]
    return below if node.get(key) is None else [node[key], *below]
