"""Registries of flmm: children of mmengine's, scope ``flmm``.

``locations`` are imported by mmengine the first time a name is looked up, so that building a
model never imports the data rooms (and through them mmdet), nor the other way round.
"""

from __future__ import annotations

from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry, build_from_cfg

MODELS = Registry(
    "model",
    parent=MMENGINE_MODELS,
    scope="flmm",
    locations=[
        "flmm.readers",
        "flmm.masks",
        "flmm.selectors",
        "flmm.grounder",
        "flmm.box_baseline",
    ],
)
DATASETS = Registry(
    "dataset",
    parent=MMENGINE_DATASETS,
    scope="flmm",
    locations=["flmm.data.refcoco", "flmm.data.png", "flmm.data.sampler"],
)
TRANSFORMS = Registry(
    "transform",
    parent=MMENGINE_TRANSFORMS,
    scope="flmm",
    locations=["flmm.data.transforms", "flmm.data.panoptic"],
)
METRICS = Registry(
    "metric",
    parent=MMENGINE_METRICS,
    scope="flmm",
    locations=["flmm.evaluation.grounding_metrics"],
)
HOOKS = Registry(
    "hook",
    parent=MMENGINE_HOOKS,
    scope="flmm",
    locations=[
        "flmm.training.checkpoint_hook",
        "flmm.training.example_images",
        "flmm.training.feature_caching",
        "flmm.training.skipped_records",
    ],
)


def build_image_processor(cfg: Any, registry: Registry, **kwargs: Any) -> Any:
    """Build an image processor and wrap it where it is a unified processor.

    Args:
        cfg: a config dict (``type`` may be a registered name or a callable such as
            ``AutoProcessor.from_pretrained``), or a ready processor object.
        registry: the registry whose adapters are asked, each through its static method
            ``recognises(processor) -> bool``.

    Raises:
        TypeError: no adapter recognises the object and it has no ``preprocess`` of its own.
    """
    processor = build_from_cfg(cfg, registry, **kwargs) if isinstance(cfg, dict) else cfg
    registry.import_from_location()
    for adapter in registry.module_dict.values():
        if isinstance(processor, adapter):
            return processor
        if adapter.recognises(processor):
            return adapter(processor)
    if not callable(getattr(processor, "preprocess", None)):
        raise TypeError(
            f"{type(processor).__name__} is no image processor flmm can use: hand over a unified "
            "Qwen-VL processor (AutoProcessor.from_pretrained) or an object with preprocess()"
        )
    return processor


# Turns a picture into VLM input. A config may hand over a transformers processor; the adapters
# in flmm.readers recognise and wrap it.
IMAGE_PROCESSORS = Registry(
    "image processor",
    build_func=build_image_processor,
    scope="flmm",
    locations=["flmm.readers"],
)
