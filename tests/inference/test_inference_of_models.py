"""The models' maps are those that their predictions come from."""

import pytest
import torch

from datasets.transforms import Normalize, ResizeToMultiple
from inference import InferenceConfig, build_inference
from structures import DatasetInfo
from tests.models.test_predict_tensors import model_and_batch

NORMALISED = (Normalize(), ResizeToMultiple(multiple=32))  # batches are normalised already


@pytest.mark.parametrize("case", ["seg", "maskformer", "depth", "depth without flip"])
def test_one_window_predicts_what_the_model_predicts(case):
    model, batch = model_and_batch(case)
    batch.images = batch.images[:, :, :96]  # padded no further than a window is
    batch.targets[0].size = batch.sizes[0]  # at other sizes probabilities are resized, not logits
    task = "depth" if case.startswith("depth") else "semantic"
    settings = InferenceConfig.model_validate({"windows": {"size": (128, 128)}})
    classes = () if task == "depth" else tuple(map(str, range(model.maps(batch.images, batch.sizes[0]).shape[1])))
    inference = build_inference(settings, model, NORMALISED, DatasetInfo(task, "any", classes))
    assert inference.transforms == NORMALISED
    with torch.inference_mode():
        found, expected = inference.predict(batch)[0], model.predict(batch)[0]
    if task == "semantic":
        assert (found.semantic == expected.semantic).float().mean() > 0.999
    else:
        torch.testing.assert_close(found.depth, expected.depth)


@pytest.mark.parametrize("case", ["pan", "det"])
def test_models_of_objects_have_no_maps(case):
    model, batch = model_and_batch(case)
    with pytest.raises(TypeError, match="predicts no maps"):
        model.maps(batch.images, batch.sizes[0])
