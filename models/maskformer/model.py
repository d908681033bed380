"""MaskFormer: predicts a set of masks, each with a class, instead of a class per pixel. Cheng et al., NeurIPS 2021."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from config import Rate, Schema
from models.base import Backbone, DenseModel
from models.components import BackboneConfig, UpsamplerConfig
from models.layers.resize import argmax_from_masks, size_of
from models.maskformer.losses import QueryLogits, extract_segments, losses
from models.maskformer.partition import PartitionConfig, partition
from models.maskformer.pixel_decoder import PixelDecoder
from models.maskformer.transformer import TransformerDecoder, TransformerEncoder
from models.weights import Source, load_start, replaces_backbone
from structures import Batch, DatasetInfo, Panoptic, Prediction, Size


class MaskFormerConfig(Schema):
    """A MaskFormer for semantic segmentation or, on panoptic data, for panoptic segmentation. Defaults: as published.

    upsampler: upsampler of the three stages of the pixel decoder. channels: channels of the pixel decoder and of the
    queries. queries: number of queries, which is the maximum number of masks per image. layers: number of layers of the
    transformer decoder. heads: attention heads of each layer. hidden: channels between the two linear layers of each
    layer. dropout: dropout rate in the transformer. encoder_layers: number of layers of a transformer encoder on the
    coarsest level, with the same heads, hidden and dropout; published: 0 for semantic and 6 for panoptic segmentation.
    deep_supervision: losses on all decoder layers, not only on the last. partition: post-processing of panoptic
    predictions. size_divisor: images are padded to multiples of it; 1: no further than their batch needs. weights: a
    converted MaskFormer or a checkpoint of this repository. weights_exclude: names of tensors or submodules that keep
    their initial values, for example classifier for another class list.
    """

    name: Literal["maskformer"] = "maskformer"
    backbone: BackboneConfig
    upsampler: UpsamplerConfig
    channels: PositiveInt = 256
    queries: PositiveInt = 100
    layers: Annotated[int, Field(gt=0, le=1000)] = 6
    heads: PositiveInt = 8
    hidden: PositiveInt = 2048
    dropout: Rate = 0.1
    encoder_layers: NonNegativeInt = 0
    deep_supervision: bool = True
    partition: PartitionConfig = PartitionConfig()
    size_divisor: PositiveInt = 32
    weights: Source | None = None
    weights_exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_heads(self) -> "MaskFormerConfig":
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} do not divide into {self.heads} heads")
        return self

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """Build the model for the classes of `info`. pretrained: load the weights that the config names."""
        if info.task not in ("semantic", "panoptic"):
            what = f"maskformer needs a class for every pixel, but {info.name} is data for the task {info.task}"
            raise ValueError(f"{what}; use ade20k or coco_panoptic, as configs/maskformer_*.yaml do")
        backbone = self.backbone.build(pretrained and not replaces_backbone(self.weights, self.weights_exclude))
        widths = [level.channels for level in backbone.feature_info]
        encoder = None
        if self.encoder_layers:
            encoder = TransformerEncoder(
                widths[-1], self.channels, self.encoder_layers, self.heads, self.hidden, self.dropout
            )
            widths[-1] = self.channels
        model = MaskFormer(
            backbone,
            encoder,
            PixelDecoder(widths, self.channels, self.upsampler),
            TransformerDecoder(
                widths[-1], self.channels, self.queries, self.layers, self.heads, self.hidden, self.dropout
            ),
            self.channels,
            info,
            self.deep_supervision,
            self.partition,
        )
        model.size_divisor = self.size_divisor
        if self.weights and pretrained:
            model.left_out = load_start(model, self.weights, self.weights_exclude)
        return model


class MaskFormer(DenseModel):
    """Segmentation by masks. Raw outputs: class_logits [B, Q, K + 1] and mask_logits [B, Q, H/4, W/4].

    It predicts semantic maps for semantic data, and panoptic segmentations for panoptic data.
    """

    things: Tensor

    def __init__(
        self,
        backbone: Backbone,
        encoder: TransformerEncoder | None,
        pixel_decoder: PixelDecoder,
        transformer: TransformerDecoder,
        channels: int,
        info: DatasetInfo,
        deep_supervision: bool,
        partition: PartitionConfig,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.pixel_decoder = pixel_decoder
        self.transformer = transformer
        self.classifier = nn.Linear(channels, info.num_classes + 1)
        self.mask_embedding = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))
        self.deep_supervision = deep_supervision
        self.partition = partition
        self.is_panoptic = info.task == "panoptic"
        things = torch.tensor(info.things or (False,) * info.num_classes)
        self.register_buffer("things", things, persistent=False)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] -> {"class_logits": [B, Q, K + 1], "mask_logits": [B, Q, H/4, W/4]} of the last layer.

        The last class is "no object".
        """
        class_logits, mask_logits = self._predict_layers(images)[-1]
        return {"class_logits": class_logits, "mask_logits": mask_logits}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss_class", "loss_mask", "loss_dice"}, each summed over all supervised layers."""
        pairs = zip(batch.targets, batch.sizes, strict=True)
        truth = [extract_segments(target, self.things, size) for target, size in pairs]
        return losses(self._predict_layers(batch.images)[0 if self.deep_supervision else -1 :], truth)

    @torch.no_grad()
    def predict_tensors(self, images: Tensor, unpadded: Tensor, size: Tensor) -> dict[str, Tensor]:
        """{"semantic"} or {"ids", "segment_labels"}; see DenseModel."""
        (class_logits,), (mask_logits,) = self._predict_layers(images)[-1]
        padded = images.shape[2], images.shape[3]
        sizes = padded, size_of(unpadded, within=padded), size_of(size)
        if self.is_panoptic:
            found = partition(class_logits, mask_logits, *sizes, self.things, self.partition)
            return dict(zip(("ids", "segment_labels"), found, strict=True))
        probabilities = class_logits.float().softmax(dim=1)[:, :-1]
        return {"semantic": argmax_from_masks(probabilities, mask_logits, *sizes).int()}

    @torch.no_grad()
    def maps(self, images: Tensor, unpadded: Size) -> Tensor:
        """Class scores, the sum over masks of class probability times mask probability; see DenseModel."""
        if self.is_panoptic:
            return super().maps(images, unpadded)
        outputs = self.outputs(images)
        masks = F.interpolate(outputs["mask_logits"].float(), size=images.shape[-2:], mode="bilinear")
        masks = masks[:, :, : unpadded[0], : unpadded[1]].sigmoid()
        return torch.einsum("bqk,bqhw->bkhw", outputs["class_logits"].float().softmax(dim=2)[:, :, :-1], masks)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Predictions at original size.

        Semantic: the score of a class at a pixel is the sum over masks of class probability times mask probability.
        Panoptic: each pixel belongs to the mask with the highest such product; see `partition`.
        """
        padded = batch.images.shape[-2], batch.images.shape[-1]
        predictions = []
        for class_logits, mask_logits, unpadded, target in zip(
            *self._predict_layers(batch.images)[-1], batch.sizes, batch.targets, strict=True
        ):
            if self.is_panoptic:
                sizes = padded, unpadded, target.size
                ids, labels = partition(class_logits, mask_logits, *sizes, self.things, self.partition)
                predictions.append(Prediction(panoptic=Panoptic(ids, dict(enumerate(labels.tolist(), 1)))))
            else:
                probabilities = class_logits.float().softmax(dim=1)[:, :-1]
                found_classes = argmax_from_masks(probabilities, mask_logits, padded, unpadded, target.size)
                predictions.append(Prediction(semantic=found_classes))
        return predictions

    def _predict_layers(self, images: Tensor) -> list[QueryLogits]:
        """The predictions of each layer of the transformer decoder, first to last."""
        levels = self.backbone(images)
        if self.encoder is not None:
            levels = [*levels[:-1], self.encoder(levels[-1])]
        features = self.pixel_decoder(levels)
        return [self._predict_queries(x, features) for x in self.transformer(levels[-1])]

    def _predict_queries(self, x: Tensor, features: Tensor) -> QueryLogits:
        """Query features x [B, Q, C] and pixel features [B, C, h, w] -> class and mask logits."""
        embedding = x
        for index, layer in enumerate(self.mask_embedding):
            embedding = layer(F.relu(embedding) if index else embedding)
        return QueryLogits(self.classifier(x), torch.einsum("bqc,bchw->bqhw", embedding, features))
