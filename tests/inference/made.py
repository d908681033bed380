"""Models whose predictions are known."""

import torch
from pycocotools import mask as mask_utils

from datasets.transforms import Normalize
from models.base import DenseModel
from structures import Batch, Instances, Prediction, Target


class Pointwise(DenseModel):
    """Maps that depend on each pixel alone. classes: 1: depths."""

    size_divisor = 8

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(3, classes, 1)
        self.sizes = []

    def maps(self, images, unpadded):
        assert images.shape[2] % 8 == images.shape[3] % 8 == 0
        self.sizes.append(unpadded)
        found = self.mix(images)[:, :, : unpadded[0], : unpadded[1]]
        return found if found.shape[1] == 1 else found.softmax(dim=1)

    def predict(self, batch):
        raise AssertionError

    outputs = forward = predict_tensors = predict


class Finder(DenseModel):
    """Finds every grey level above 0 of the red channel as one object, also a part of it. Score: its share of 1000."""

    size_divisor = 8

    def predict(self, batch):
        predictions = []
        for image, (height, width), target in zip(batch.images, batch.sizes, batch.targets, strict=True):
            red = image[0, :height, :width]
            boxes, scores, rles = [], [], []
            for value in sorted(red[red > 0].unique(), key=lambda level: -int((red == level).sum())):
                mask = red == value
                rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
                boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
                scores.append(int(mask.sum()) / 1000)
                whole = torch.nn.functional.interpolate(mask[None, None].float(), target.size)[0, 0]
                rles.append(mask_utils.encode(whole.numpy().astype("uint8", order="F"))["counts"])
            factor = torch.tensor([target.size[1] / width, target.size[0] / height] * 2)
            found = torch.tensor(boxes).reshape(-1, 4) * factor
            labels = torch.zeros(len(boxes), dtype=torch.int64)
            predictions.append(Prediction(instances=Instances(found, labels, scores=torch.tensor(scores), rles=rles)))
        return predictions

    def outputs(self, images):
        raise AssertionError

    forward = predict_tensors = outputs


PLAIN = Normalize(mean=(0, 0, 0), std=(1, 1, 1))


def batch_of(image: torch.Tensor, size: tuple[int, int] | None = None) -> Batch:
    """One image [C, H, W]; size: the original one, if another."""
    own = (image.shape[1], image.shape[2])
    return Batch(image[None], [own], [Target("a", size or own)])


def noise(height: int, width: int) -> torch.Tensor:
    """Grey levels [3, height, width] uint8."""
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
