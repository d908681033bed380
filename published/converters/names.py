"""Whose weights can be converted: the names of `sources.SOURCES`, without the imports that take seconds."""

NAMES = (
    "segformer",
    "mmseg",
    "huggingface",
    "maskformer",
    "torchvision",
    "mmdet",
    "swin",
    "timm",
    "depthformer",
    "efficientnet",
)
