"""How a trained model predicts an image: at once, or in windows and in several views that are put together.

Settings: `evaluation.inference`. `experiment.inference(model)` makes an `Inference` of them.
"""

from datasets.base import Transform
from inference.base import Inference
from inference.maps import MapInference
from inference.objects import ObjectInference
from inference.settings import InferenceConfig
from models.base import DenseModel
from structures import DatasetInfo

__all__ = ["Inference", "InferenceConfig", "build_inference"]


def build_inference(
    settings: InferenceConfig, model: DenseModel, transforms: tuple[Transform, ...], info: DatasetInfo
) -> Inference:
    """A model that predicts as `settings` say. transforms: of test images. info: of the data that it predicts for."""
    if settings.at_once:
        return Inference(model, transforms)
    if info.task in ("semantic", "depth"):
        return MapInference(model, transforms, settings, info)
    return ObjectInference(model, transforms, settings)
