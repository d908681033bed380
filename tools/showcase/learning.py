"""The animation: the demo's SegFormer learns, and the sampling points of its last upsampler move."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from datasets.base import Sample
from datasets.loading import next_batches, single_batch
from experiment import load_experiment
from pictures import draw_prediction
from runtime.distributed import start_processes
from runtime.schedule import set_learning_rate
from tools.show_sampling.drawing import Region
from tools.showcase.panels import GAP, HEIGHT, WIDTH, caption, draw_sampling, mark, resize
from train import Run, train_step

FRAME_EVERY = 6  # steps
SAVE_EVERY = 24
MILLISECONDS, LAST = 200, 3000  # that a frame is shown, and the last one


def learn(cfg: Path, image: np.ndarray, region: Region, overrides: Sequence[str] = ()) -> list[Path]:
    """Train as `train.py --cfg CFG OVERRIDES` does, without evaluations; give the pictures of its frames.

    A run that was stopped goes on from its last checkpoint.
    """
    experiment = load_experiment(cfg, [*overrides, "run_name=showcase_learning"]).in_steps()
    experiment.fetch_weights()
    frames = experiment.run_folder / "frames"
    frames.mkdir(parents=True, exist_ok=True)
    run = Run(experiment, start_processes(experiment.system.device))
    steps = experiment.steps
    for step in range(run.state.step, steps + 1):
        if step % FRAME_EVERY == 0:
            picture = _frame(run, image, region, f"step {step} of {steps}")
            Image.fromarray(picture).save(frames / f"{step:05d}.png")
        if step % SAVE_EVERY == 0:
            run.checkpoints.save(run.state.to_checkpoint())
        if step == steps:
            break
        micro_batches, error = next_batches(run.batches, run.layout.accumulation)
        if error is not None:
            raise error
        set_learning_rate(run.optimizer, experiment.schedule.factor(step, steps))
        run.processes.seed_step(experiment.seed, step)
        train_step(run, micro_batches)
        run.state.step = step + 1
    return sorted(frames.glob("*.png"))


@torch.inference_mode()
def _frame(run: Run, image: np.ndarray, region: Region, text: str) -> np.ndarray:
    """Sampling points at the left, the prediction with the region marked at the right."""
    model, experiment = run.model, run.experiment
    left = caption(draw_sampling(model, experiment, image, region), "where DySample samples")
    inference = experiment.inference(model.eval())
    batch = single_batch(Sample("scene", image.shape[:2], image), inference.transforms, inference.size_divisor)
    found = inference.predict(batch.to(run.processes.device))[0].to("cpu")
    model.train()
    right = mark(resize(draw_prediction(image, found, experiment.data.info)), region, image)
    return np.hstack([left, np.zeros((HEIGHT, GAP, 3), np.uint8), caption(right, text)])


def animate(frames: list[Path], out: Path, width: int = 2 * WIDTH) -> None:
    """Write an animated WebP file that starts again at its end."""
    pictures = [np.array(Image.open(path)) for path in frames]
    size = width, round(width * pictures[0].shape[0] / pictures[0].shape[1])
    first, *others = (Image.fromarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA)) for each in pictures)
    duration = [MILLISECONDS] * (len(frames) - 1) + [LAST]
    first.save(out, save_all=True, append_images=others, duration=duration, loop=0, quality=60, method=6)
