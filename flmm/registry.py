"""Registries of flmm: children of mmengine's, scope ``flmm``.

``locations`` are imported by mmengine the first time a name is looked up, so that building a
model never imports the data rooms (and through them mmdet), nor the other way round.
"""

from __future__ import annotations

from typing import Any

from mmengine import registry as mmengine
from mmengine.registry import Registry, build_from_cfg


def _build_child(name: str, parent: Registry, modules: str) -> Registry:
    locations = [f"flmm.{module}" for module in modules.split()]
    return Registry(name, parent=parent, scope="flmm", locations=locations)


MODELS = _build_child("model", mmengine.MODELS, "readers masks selectors presence grounder ways")
DATASETS = _build_child("dataset", mmengine.DATASETS, "data.refcoco data.png data.reason_seg")
TRANSFORMS = _build_child("transform", mmengine.TRANSFORMS, "data.transforms")
METRICS = _build_child("metric", mmengine.METRICS, "evaluation.grounding_metrics")
HOOKS = _build_child(
    "hook",
    mmengine.HOOKS,
    "training.checkpoint_hook training.example_images training.feature_caching "
    "evaluation.grounding_metrics",
)


def build_image_processor(cfg: Any, registry: Registry, **kwargs: Any) -> Any:
    """Build an image processor and wrap it where it is a unified processor.

    Args:
        cfg: a config dict (``type`` may be a registered name or a callable such as
            ``AutoProcessor.from_pretrained``), or a ready processor object.
        registry: whose adapters are asked, by their static ``recognises(processor) -> bool``.

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
            f"{type(processor).__name__} is no image processor flmm can use: hand over a model's "
            "unified processor (AutoProcessor.from_pretrained) or an object with preprocess()"
        )
    return processor


# Turns a picture into VLM input. A config may hand over a transformers processor; the adapters
# in flmm.readers recognise and wrap it.
IMAGE_PROCESSORS = Registry(
    "image processor", build_func=build_image_processor, scope="flmm", locations=["flmm.readers"]
)
