"""The settings of one run, which are the root of every YAML file, and what is built from them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr

from config import Schema, dump, origin, read_config, validate
from datasets import DataConfig
from datasets.loading import BatchLayout
from datasets.transforms import Pad, RandomCrop, ResizeFit
from errors import UserError, suggest
from inference import Inference, InferenceConfig, build_inference
from metrics import MetricConfig
from metrics.base import Metric
from models import ModelConfig
from models.base import DenseModel
from models.weights import IMAGENET, UNUSED, check_start, read_weights, replaces_backbone
from published.cache import is_word, obtain, stored
from published.index import entries
from runtime.arithmetic import Precision, autocast, float32_products
from runtime.distributed import Processes
from runtime.optimizer import OptimizerConfig
from runtime.schedule import ScheduleConfig, Steps, is_in_epochs, steps_of
from runtime.sinks import SinkName
from storage import check_is_file
from structures import DatasetInfo, Size

# A larger number is a typing error, and would fill the memory before any other check could refuse it.
ImageCount = Annotated[int, Field(gt=0, le=2**20)]
WorkerCount = Annotated[int, Field(ge=0, le=1024)]


class EvaluationConfig(Schema):
    """When and how to evaluate.

    every: interval in optimiser steps or epochs; the last step is always evaluated. batch_size: images per process and
    batch; affects results only by rounding. pictures: number of validation images drawn after each evaluation. best:
    name of the number that selects the best checkpoint; None: the primary number of the first metric. patience: stop
    after so many evaluations without a new best number (early stopping); None: do all steps. inference: see there.
    """

    every: Steps
    batch_size: ImageCount = 1
    pictures: NonNegativeInt = 8
    best: str | None = None
    patience: PositiveInt | None = None
    inference: InferenceConfig | None = None


class LoggingConfig(Schema):
    """Intervals in steps or epochs. every: of logging the losses. checkpoint_every: of saving the last checkpoint.

    sinks: where the numbers of `log.jsonl` and the pictures go, too (see runtime/sinks/).
    """

    every: Steps = 50
    checkpoint_every: Steps = 1000
    sinks: tuple[SinkName, ...] = ("tensorboard",)


class SystemConfig(Schema):
    """Settings of the machine. They affect training only by rounding, with one exception: max_per_process.

    workers: data-loading processes per training process. max_per_process: the largest number of images that fit into
    one process at once; larger batches are split into accumulation rounds, whose losses are averaged. This average
    differs from the loss of the whole batch if a loss is a mean over objects, or is not a mean (as for depth, ohem and
    dice).
    backend: what exchanges CUDA tensors between processes. auto: NCCL, which takes one process per GPU. gloo: slower,
    for machines on which NCCL does not work, and for processes that share a GPU.
    channels_last, compile: memory layout and torch.compile. reuse_memory: let glibc keep freed memory, on CPU (see
    runtime/memory.py). deterministic: use deterministic algorithms only, so that equal runs give equal bits on CUDA
    too; an operation without such an algorithm is an error.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "gloo"] = "auto"
    workers: WorkerCount = 4
    max_per_process: PositiveInt | None = None
    channels_last: bool = False
    compile: bool = False
    reuse_memory: bool = True
    deterministic: bool = False


def _check_run_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"{name!r} cannot name a run; use letters, digits and _ . + -, a letter or digit first")
    return name


class Experiment(Schema):
    """One run.

    steps: optimiser steps, or epochs, such as `12 epochs`; see `in_steps`.
    batch_size: images per optimiser step, over all processes and accumulation rounds. precision: of autocast, with
    float32 weights; fp32: none; tf32: none, but TF32 products on CUDA (see runtime/arithmetic.py). gradient_clip:
    maximum total gradient norm. ema_decay: keep, evaluate and save an exponential moving average of the weights, with
    this decay. frozen: dotted names of parts of the model, such as backbone.stages.0, or of single weights, that are
    not trained; parts are also in evaluation mode, so their running statistics and dropout rest. sync_batch_norm:
    compute batch statistics over all processes.
    """

    run_name: Annotated[str, AfterValidator(_check_run_name)]
    output_dir: Path = Path("runs")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: Steps
    batch_size: ImageCount
    model: ModelConfig
    data: DataConfig
    metrics: Annotated[tuple[MetricConfig, ...], Field(min_length=1)]
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    gradient_clip: PositiveFloat | None = None
    precision: Precision = "fp32"
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    frozen: tuple[str, ...] = ()
    sync_batch_norm: bool = True
    evaluation: EvaluationConfig
    logging: LoggingConfig = LoggingConfig()
    system: SystemConfig = SystemConfig()

    _config: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr("")

    @property
    def run_folder(self) -> Path:
        """The folder of the run's files."""
        return Path(os.path.expanduser(self.output_dir)) / self.run_name  # unlike Path's, never raises

    def in_steps(self) -> "Experiment":
        """The run with all lengths in steps. If one is in epochs, the training images are counted.

        Raises UserError if they are not there.
        """
        lengths = (self.steps, self.evaluation.every, self.logging.every, self.logging.checkpoint_every)
        if not any(map(is_in_epochs, lengths)):
            return self
        epoch = len(self.data.build("train")) / self.batch_size
        steps, evaluate, log, save = (steps_of(length, epoch) for length in lengths)
        evaluation = self.evaluation.model_copy(update={"every": evaluate})
        logging = self.logging.model_copy(update={"every": log, "checkpoint_every": save})
        return self.model_copy(update={"steps": steps, "evaluation": evaluation, "logging": logging})

    def build_model(self, pretrained: bool = True, info: DatasetInfo | None = None) -> DenseModel:
        """Build the model on CPU, with random weights from `seed`. pretrained: then load the weights that it names.

        info: of the training set, for training; by default of the data in general, without class frequencies.
        Names and URLs are fetched. Only the word `imagenet`, which recipes contain, is not: before `fetch_weights` it
        stands for random numbers, so that models can be looked at anywhere.
        Raises UserError if the options do not fit together or the model does not fit in memory.
        """
        if self.evaluation.inference is not None:
            self.evaluation.inference.check(self.data.info.task, self._where("evaluation.inference"))
        settings = self._with_files() if pretrained else self.model
        torch.manual_seed(self.seed)
        try:
            model = settings.build(info or self.data.info, pretrained=pretrained)
        except (ValueError, RuntimeError, MemoryError) as error:
            # A component refuses this combination of sizes, or PyTorch cannot allocate it.
            what, _, do = str(error).partition("\n")[0].partition("; ")
            advice = do or "change the model's options"
            raise UserError(self._where("model"), what or "does not fit in memory", advice) from error
        model.freeze(self.frozen)
        return model

    def inference(self, model: DenseModel) -> Inference:
        """The model as it predicts whole images, by `evaluation.inference`."""
        settings = self.evaluation.inference or InferenceConfig()
        return build_inference(settings, model, self.data.test_transforms, self.data.info)

    def build_metrics(self) -> list[Metric]:
        """Build the metrics, empty."""
        return [metric.build(self.data.info) for metric in self.metrics]

    @property
    def input_size(self) -> Size:
        """(height, width) of a training image; parameters and MACs are counted for this size."""
        for transform in reversed(self.data.train_transforms):
            if isinstance(transform, Pad | RandomCrop):
                return transform.size
            if isinstance(transform, ResizeFit):
                return transform.short, transform.long
        return 512, 512

    def padded_input(self, model: DenseModel) -> Size:
        """(height, width) of a training image, rounded up to multiples of the model's `size_divisor`."""
        height, width = self.input_size
        divisor = model.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def best_metric(self) -> tuple[str, bool]:
        """Name of the number that selects the best checkpoint, and whether lower is better.

        Raises UserError if no metric gives this number, or if two metrics give numbers of the same name.
        """
        metrics = self.build_metrics()
        name = metrics[0].primary if self.evaluation.best is None else self.evaluation.best
        names = [name for metric in metrics for name in metric.names]
        if len(set(names)) < len(names):
            raise UserError(self._where("metrics"), "two of them give the same numbers", "remove one")
        if name not in names:
            raise UserError(self._where("evaluation.best"), f"no metric {name}", suggest(name, names))
        return name, any(name in metric.lower_is_better for metric in metrics)

    def fetch_weights(self) -> None:
        """Check what a new run starts from, before anything is built, and fetch what it names.

        Raises UserError if a file is missing or cannot be fetched, or if parts that training does not change would stay
        random.
        """
        in_backbone = [name for name in self.frozen if name.partition(".")[0] == "backbone"]
        if self.model.weights is None and (rest := sorted({*self.frozen} - {*in_backbone})):
            what = f"{rest[0]} would keep random numbers, since no weights are named for it"
            raise UserError(self._where("frozen"), what, "set model.weights, or take it out of frozen")
        for key, weights in self._named_weights().items():
            where = self._where(key)
            if key == "model.backbone.weights":
                backbone = self.model.backbone
                fixed = " and ".join([*([backbone.fixed] if backbone.fixed else []), *in_backbone])
                check_start(backbone.name, weights, backbone.published, fixed, where)
            if weights is not None and (name := self._name_of(weights)) is not None:
                if is_word(name):
                    self._fetch(name, can_be_declined=weights == IMAGENET and not self.model.backbone.fixed)
                else:
                    self._check_file(Path(name).expanduser(), f"{where} {weights}")

    @staticmethod
    def _check_file(path: Path, where: str) -> None:
        if not path.exists() and not path.suffix and path.name == str(path):  # not a path, but a name that is misspelt
            what = "is neither a file nor a name of the index"
            raise UserError(where, what, f"{suggest(path.name, list(entries()))} (python -m tools.weights lists them)")
        check_is_file(path, where)

    @staticmethod
    def _fetch(name: str, can_be_declined: bool) -> None:
        try:
            obtain(name)
        except UserError as error:
            where, what, do = error.args
            more = "; or add model.backbone.weights=null to start from random numbers" if can_be_declined else ""
            raise UserError(where, what, do + more) from None

    def weight_files(self) -> dict[str, Path]:
        """The files of pretrained weights that a new run loads, by their keys; fetched ones lie in the cache."""
        names = {key: self._name_of(weights) for key, weights in self._named_weights().items() if weights is not None}
        return {key: stored(name) if is_word(name) else Path(name).expanduser() for key, name in names.items() if name}

    def describe_weights(self, left_out: Mapping[str, str] | None = None) -> str:
        """What a new run starts from, or that it is nothing; reads the files. left_out: of the model that is built."""
        absent = [*self.model.weights_exclude, *(f"{part} ({why})" for part, why in (left_out or {}).items())]
        names = {"model.backbone.weights": "backbone", "model.weights": "whole model"}
        files, parts = self.weight_files(), []
        for key, weights in self._named_weights().items():
            if weights is None:
                continue
            source, remark = weights, ""
            if key in files:
                remark = read_weights(files[key], key).remark
            if weights == IMAGENET and (published := self.model.backbone.published):
                source = f"{published.name} of timm" if published.by_timm else published.name
            without = f" without {', '.join(absent)}" if absent and key == "model.weights" else ""
            parts.append(f"{names[key]}{without} from {source}{f' ({remark})' if remark else ''}")
        if not parts:
            return "none: training starts from random numbers"
        whole = self.model.weights is not None and all(UNUSED in part for part in absent)
        return "; ".join([*parts, *([] if whole else ["all else starts from random numbers"])])

    def _named_weights(self) -> dict[str, str | None]:
        """What the settings say for the parts that start from weights, the backbone first; None: random numbers."""
        model = self.model
        if replaces_backbone(model.weights, model.weights_exclude):
            return {"model.weights": model.weights}
        own = {} if model.weights is None else {"model.weights": model.weights}
        return {"model.backbone.weights": model.backbone.weights, **own}

    def _name_of(self, weights: str) -> str | None:
        """The file, URL or name of the index that a setting stands for; None if the backbone fetches it itself."""
        published = self.model.backbone.published
        if weights != IMAGENET:
            return weights
        return None if published is None or published.by_timm else published.name

    def _with_files(self) -> ModelConfig:
        """The settings of the model, with names and URLs replaced by files."""
        model = self.model
        for key, weights in self._named_weights().items():
            name = None if weights is None else self._name_of(weights)
            if name is None or not is_word(name) or (weights == IMAGENET and not stored(name).exists()):
                continue
            file = {"weights": str(obtain(name))}
            if key == "model.weights":
                model = model.model_copy(update=file)
            else:
                model = model.model_copy(update={"backbone": model.backbone.model_copy(update=file)})
        return model

    def _where(self, key: str) -> str:
        """The file or argument that set a key, and the key, for error messages."""
        return f"{origin(self._config, key, self._source)}: {key}"

    def autocast(self, device: torch.device) -> torch.autocast:
        """The mixed-precision context of `precision`, for the forward pass."""
        return autocast(device, self.precision)

    def float32(self) -> AbstractContextManager[None]:
        """The context of `precision` for what autocast leaves in float32; around a whole training."""
        return float32_products(tf32=self.precision == "tf32")

    @contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """The context of `precision` for predictions: both of the above."""
        with self.float32(), self.autocast(device):
            yield

    def batch_layout(self, processes: Processes) -> BatchLayout:
        """Split the batch over processes, and into as few accumulation rounds as `system.max_per_process` allows.

        Raises UserError if the batch does not divide evenly among the processes.
        """
        images, remainder = divmod(self.batch_size, processes.count)
        if remainder:
            what = f"{self.batch_size} images do not divide among {processes.count} processes"
            raise UserError(self._where("batch_size"), what, f"use a multiple of {processes.count}")
        limit = self.system.max_per_process or images
        rounds = next(count for count in range(1, images + 1) if images % count == 0 and images // count <= limit)
        return BatchLayout(images // rounds, rounds, processes.count, processes.rank)

    def dump(self) -> dict[str, Any]:
        """The configuration as plain values, including all defaults."""
        return dump(self)


def load_experiment(cfg: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Load an experiment from a YAML file and `KEY=VALUE` overrides; reads no images. Raises UserError if invalid."""
    config = read_config(cfg, overrides, Experiment)
    config.setdefault("run_name", Path(cfg).stem)
    return make_experiment(config, str(cfg))


def make_experiment(config: Mapping[str, Any], source: str) -> Experiment:
    """Make an experiment of a mapping. source: where it came from, for error messages. Raises UserError if invalid."""
    experiment = validate(Experiment, config, source)
    experiment._config, experiment._source = config, source
    return experiment
