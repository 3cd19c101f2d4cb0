"""Models that transformers does not have, as small modules of our own over its decoders.

Their published folders name remote code, which is never run. Such a folder's ``config.json`` is
recognised by its keys, and read by a config class of ours; weights are converted from the published
key names while transformers loads them, sharded, in any dtype and on any device. One file a model;
what it is made of is said in ``base.OwnModel``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from flmm.readers.own_models.base import OwnModel
from flmm.readers.own_models.cogvlm import COGVLM
from flmm.readers.own_models.qwen_vl import QWEN_VL

OWN_MODELS: tuple[OwnModel, ...] = (QWEN_VL, COGVLM)
for _own in OWN_MODELS:
    _own.register()


class PublishedConfig:
    """Configs of published folders; stands where ``AutoConfig`` does."""

    @staticmethod
    def find(source: str, **where: Any) -> Any | None:
        """Our config; ``None``: the folder holds none of these models."""
        values, own = _find(source, where)
        return own and own.read_config(values)


class PublishedProcessor:
    """Processors of published folders; stands where ``AutoProcessor`` does."""

    @staticmethod
    def find(source: str, **where: Any) -> Any | None:
        """Our processor; ``None``: the folder holds none of these models."""
        values, own = _find(source, where)
        return own and own.build_processor(values, lambda name: _find_file(source, name, where))


def _find(source: str, where: dict[str, Any]) -> tuple[dict[str, Any], OwnModel | None]:
    """The values of a folder's config, and which model of ours they belong to."""
    path = _find_file(source, "config.json", where)
    values = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    return values, next((own for own in OWN_MODELS if own.recognises(values)), None)


def _find_file(source: str, name: str, where: dict[str, Any]) -> Path | None:
    found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **where)
    return None if found is None else Path(found)


def is_own(config: Any) -> bool:
    """Whether a config is that of a model of ours."""
    return any(isinstance(config, own.config_class) for own in OWN_MODELS)


__all__ = ["OWN_MODELS", "OwnModel", "PublishedConfig", "PublishedProcessor", "is_own"]
