"""Pictures of predictions on validation images."""

from collections.abc import Iterator

import numpy as np
import torch

from datasets.base import DenseDataset
from datasets.loading import single_batch
from experiment import Experiment
from models.base import DenseModel
from pictures import draw
from runtime.distributed import Processes


@torch.inference_mode()
def validation_pictures(
    model: DenseModel, dataset: DenseDataset, experiment: Experiment, processes: Processes
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (image id, RGB picture uint8 [H, W, 3]) for `evaluation.pictures` images, spread over the dataset.

    In the main process only; the others yield nothing.
    """
    count = min(experiment.evaluation.pictures, len(dataset)) if processes.is_main else 0
    was_training = model.training
    model.eval()
    inference = experiment.inference(model)
    for index in range(count):
        sample = dataset.load(index * len(dataset) // count)
        batch = single_batch(sample, inference.transforms, inference.size_divisor)
        with experiment.arithmetic(processes.device):
            prediction = inference.predict(batch.to(processes.device))[0].to("cpu")
        yield sample.image_id, draw(sample.image, prediction, batch.targets[0], experiment.data.info)
    model.train(was_training)
