"""MaskFormer: a set of masks with classes instead of a class for each pixel. Cheng et al., NeurIPS 2021."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from config import Rate, Schema
from models.base import Backbone, DenseModel
from models.components import BackboneConfig, UpsamplerConfig
from models.layers.resize import best_classes
from models.maskformer.losses import Queries, losses, segments_of
from models.maskformer.partition import PartitionConfig, partition
from models.maskformer.pixel_decoder import PixelDecoder
from models.maskformer.transformer import TransformerDecoder, TransformerEncoder
from models.weights import load_weights
from structures import Batch, DatasetInfo, Prediction


class MaskFormerConfig(Schema):
    """A MaskFormer for semantic maps or, on panoptic data, for partitions. Defaults: the published ones.

    upsampler: of the three stages of the pixel decoder. channels: of it and of the queries. queries: masks that an
    image can have. layers, heads, hidden, dropout: of the transformer decoder. encoder_layers: of a transformer
    encoder, with the same heads, hidden and dropout, on the coarsest level; none for semantic maps, 6 in the panoptic
    model. deep_supervision: every layer learns, not the last alone. partition: of panoptic data. weights: a converted
    MaskFormer or a checkpoint of ours; weights_exclude: names, or beginnings of names, of what to leave at its start,
    as classifier for another class list.
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
    weights: Path | None = None
    weights_exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_heads(self) -> "MaskFormerConfig":
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} do not divide into {self.heads} heads")
        return self

    def build(self, info: DatasetInfo, pretrained: bool = True) -> DenseModel:
        """The model for the classes of `info`; `pretrained`: with the weights that this record names."""
        if info.task not in ("semantic", "panoptic"):
            what = f"{info.name} is data for the task {info.task}"
            raise ValueError(f"maskformer learns from classes of pixels, but {what}; use ade20k or coco_panoptic")
        backbone = self.backbone.build(pretrained and self.weights is None)
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
        if self.weights and pretrained:
            load_weights(model, self.weights, "model.weights", self.weights_exclude)
        return model


class MaskFormer(DenseModel):
    """Segmentation by masks. Raw output: class_logits [B, Q, K + 1] and mask_logits [B, Q, H/4, W/4].

    Predictions are semantic maps of semantic data, and partitions of panoptic data, in which things come one by one.
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

        The last class is none.
        """
        classes, masks = self._layers(images)[-1]
        return {"class_logits": classes, "mask_logits": masks}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss_class", "loss_mask", "loss_dice"}, each the sum over all layers that learn."""
        truth = [segments_of(target, self.things) for target in batch.targets]
        layers = self._layers(batch.images)[0 if self.deep_supervision else -1 :]
        by_layer = [losses(queries, truth, batch.images.shape[-2:]) for queries in layers]
        return {name: torch.stack([terms[name] for terms in by_layer]).sum() for name in by_layer[0]}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """At original size: each mask votes for its classes as far as it holds a pixel, or wins it altogether."""
        padded = batch.images.shape[-2], batch.images.shape[-1]
        predictions = []
        for classes, masks, inside, target in zip(
            *self._layers(batch.images)[-1], batch.sizes, batch.targets, strict=True
        ):
            if self.is_panoptic:
                found = partition(classes, masks, padded, inside, target.size, self.things, self.partition)
                predictions.append(Prediction(panoptic=found))
            else:
                scores = classes.float().softmax(dim=1)[:, :-1]
                predictions.append(Prediction(semantic=best_classes(scores, masks, padded, inside, target.size)))
        return predictions

    def _layers(self, images: Tensor) -> list[Queries]:
        """What each layer of the transformer decoder says, first to last."""
        levels = self.backbone(images)
        if self.encoder is not None:
            levels = [*levels[:-1], self.encoder(levels[-1])]
        features = self.pixel_decoder(levels)
        return [self._queries(x, features) for x in self.transformer(levels[-1])]

    def _queries(self, x: Tensor, features: Tensor) -> Queries:
        """Features of the queries [B, Q, C] and of the pixels [B, C, h, w] -> their classes and masks."""
        embedding = x
        for index, layer in enumerate(self.mask_embedding):
            embedding = layer(F.relu(embedding) if index else embedding)
        return Queries(self.classifier(x), torch.einsum("bqc,bchw->bqhw", embedding, features))
