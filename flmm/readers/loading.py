"""Frozen models from a folder or a hub id."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.models.smolvlm import processing_smolvlm

from flmm.readers.attention import CHUNKED_ATTENTION
from flmm.readers.own_models import PublishedConfig, PublishedProcessor, is_own

_MAIN_FILES = {"model": "config.json", "processor": "preprocessor_config.json and a tokenizer"}
# The hub's client tries a connection that does not exist six times, and waits 23 seconds in
# between: whoever loads by a name asks once, and tells the client to look into its cache alone.
PATIENCE_S = 3.0
_ANSWER_LASTS_S = 60.0
TINY_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "tiny_vlm"
TOY_NOTICE = (
    "This is the toy embedded in flmm: it knows drawn shapes and their colours alone, and its "
    "answer to any other picture means nothing."
)


def resolve_source(name: str | Path) -> str:
    """Folder or hub id of ``name``; ``"tiny"`` is the model embedded in the package."""
    return str(TINY_FOLDER) if str(name) == "tiny" else str(name)


def is_embedded(name: str | Path) -> bool:
    """Whether ``name`` is the model embedded in the package: ``"tiny"``, or its folder."""
    return Path(resolve_source(name)).expanduser().resolve() == TINY_FOLDER


def parse_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """``"auto"``, or the torch dtype that ``dtype`` is or names."""
    if dtype == "auto":
        return dtype
    parsed = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point:
        raise ValueError(
            f"dtype {dtype!r} is not known: give 'auto', 'bfloat16', 'float16', 'float32' or a "
            "floating-point torch.dtype"
        )
    return parsed


def load_config(name: str | Path) -> Any:
    """The model's config; ``OSError`` where there is no model."""
    return _load((PublishedConfig, AutoConfig), name, "model")


def load_processor(name: str | Path) -> Any:
    """The unified processor (or bare image processor) of a model; code of its own is not run."""
    spare_num2words()
    return _load((PublishedProcessor, AutoProcessor), name, "processor")


def spare_num2words() -> None:
    """Let SmolVLM's processor be made without num2words, which spells the frames of a video.

    A video, which flmm does not read, still asks for the package.
    """
    processing_smolvlm.num2words = processing_smolvlm.num2words or _refuse_to_spell


def _refuse_to_spell(number: int) -> str:
    raise ImportError("SmolVLM's processor takes a video with the package num2words: install it")


def _load(kinds: tuple[Any, Any], name: str | Path, what: str) -> Any:
    """Of a model of ours, or else of one of transformers'."""
    source, (own, auto) = resolve_source(name), kinds
    is_local = is_out_of_reach(source)
    try:
        found = own.find(source, local_files_only=is_local)
        if found is not None:
            return found
        return auto.from_pretrained(source, trust_remote_code=False, local_files_only=is_local)
    except Exception as error:  # whatever a damaged file of anybody's makes transformers raise
        if "custom code" in str(error):
            raise OSError(
                f"the {what} in {source!r} needs code of its own, which flmm does not run: give a "
                "model whose code is part of transformers"
            ) from error
        raise OSError(
            f"no {what} can be loaded from {source!r}: give a folder that holds a "
            f"{_MAIN_FILES[what]}, or the id of a hub model within reach"
        ) from error


def check_processor(processor: Any) -> Any:
    """The processor itself, which must be a unified one."""
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise TypeError(
            f"{type(processor).__name__} is no unified processor: give processor= what "
            "AutoProcessor.from_pretrained gives for the model's folder"
        )
    return processor


def choose_attention(config: Any, attn_implementation: str) -> str | dict[str, str]:
    """What each part of a model runs through where ``attn_implementation`` is asked for.

    SDPA applies no soft cap: a language model that has one goes through chunks of rows.
    """
    has_cap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if attn_implementation != "sdpa" or not has_cap:
        return attn_implementation
    parts = dict.fromkeys(["", *config.sub_configs], attn_implementation)
    return parts | {"text_config": CHUNKED_ATTENTION}


def load_model(
    name: str | Path,
    config: Any,
    dtype: str | torch.dtype,
    attn_implementation: str,
    device_map: Any = None,
) -> PreTrainedModel:
    """The pretrained model with its language head.

    Raises:
        ValueError: weights are missing; transformers would go on with random ones.
    """
    source = resolve_source(name)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        source,
        trust_remote_code=False,
        use_safetensors=None if is_own(config) else True,  # some of ours are published as .bin
        local_files_only=is_out_of_reach(source),
        config=config,
        dtype=parse_dtype(dtype),
        attn_implementation=choose_attention(config, attn_implementation),
        device_map=device_map,
        output_loading_info=True,
    )
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"the weights in {resolve_source(name)!r} lack {len(missing)} tensors of the model "
            f"({', '.join(missing[:3])}{', …' if missing[3:] else ''}): download them again"
        )
    return model


def build_random_model(
    config: Any, dtype: str | torch.dtype, attn_implementation: str, seed: int
) -> PreTrainedModel:
    """The same architecture with seeded random weights: the control without pretraining."""
    parsed = parse_dtype(dtype)
    if parsed == "auto":
        parsed = config.dtype or torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(
            config,
            trust_remote_code=False,
            dtype=parsed,
            attn_implementation=choose_attention(config, attn_implementation),
        )
        _fill_zeros(model)
    return model


@torch.no_grad()
def _fill_zeros(model: PreTrainedModel) -> None:
    """Draw what is zero until it is trained: a projector of zeros sees no picture."""
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.is_meta and not weight.any():
            weight.normal_(std=weight.shape[0] ** -0.5)


def is_out_of_reach(name: str | os.PathLike[str]) -> bool:
    """Whether a name can only be found on this machine: a folder, or a hub that does not answer."""
    if os.path.isdir(name) or huggingface_hub.constants.HF_HUB_OFFLINE:
        return True
    minute = int(time.monotonic() / _ANSWER_LASTS_S)
    return not _answers(huggingface_hub.constants.ENDPOINT, minute)


@lru_cache(maxsize=4)
def _answers(endpoint: str, minute: int) -> bool:
    """Whether a server answers, whatever it says; ``minute`` makes the answer grow old."""
    try:
        huggingface_hub.get_session().head(endpoint, timeout=PATIENCE_S)
    except Exception:  # of many kinds, as the client's transport has them
        return False
    return True
