"""Small random models of the real classes of every family, with the real processors.

A family is a :class:`base.SmallFamily`, listed in ``FAMILIES`` of a module that is listed here;
every test of the readers' contract then runs on it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tests.small_models import cogvlm, gemma, qwen, qwen_vl, rows, tiles
from tests.small_models.base import SmallFamily
from tests.small_models.qwen import FAMILY_FOLDERS

SMALL_FAMILIES: dict[str, SmallFamily] = {
    family.name: family
    for module in (qwen, qwen_vl, tiles, rows, cogvlm, gemma)
    for family in module.FAMILIES
}
ALL_FAMILIES = tuple(SMALL_FAMILIES)


@functools.cache
def load_processor(data_dir: Path, family: str) -> Any:
    """The unified processor of a family."""
    return SMALL_FAMILIES[family].load_processor(data_dir)


def build_small_config(data_dir: Path, family: str, **text_overrides: Any) -> Any:
    """The config of a family with few, narrow layers."""
    processor = load_processor(data_dir, family)
    return SMALL_FAMILIES[family].build_config(data_dir, processor, text_overrides)


def build_small_model(data_dir: Path, family: str, **text_overrides: Any) -> PreTrainedModel:
    """A float32 random model of the family's real class; always the same weights."""
    model = SMALL_FAMILIES[family].build_model(
        build_small_config(data_dir, family, **text_overrides)
    )
    SMALL_FAMILIES[family].finish(data_dir, model)
    return model


def save_small_folder(data_dir: Path, family: str, folder: Path) -> Path:
    """A folder with config, weights, tokenizer and processor, as a hub snapshot has them."""
    build_small_model(data_dir, family).save_pretrained(folder)
    load_processor(data_dir, family).save_pretrained(folder)
    return folder


__all__ = [
    "ALL_FAMILIES",
    "FAMILY_FOLDERS",
    "SMALL_FAMILIES",
    "build_small_config",
    "build_small_model",
    "load_processor",
    "save_small_folder",
]
