"""Datasets, the transforms of their samples, and the loaders that feed the loops."""

from datasets.ade20k import ADE20KConfig

# The datasets of `data.name`. From the second on: Annotated[ADE20KConfig | OtherConfig, Field(discriminator="name")].
DataConfig = ADE20KConfig
