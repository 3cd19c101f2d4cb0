"""A trained head as people share models: a folder, or a repository of the Hugging Face hub.

It holds ``model.safetensors`` (all that was trained), ``config.json`` (every setting, and which
frozen reader and SAM belong to it) and ``README.md`` (the model card); no code, see
:mod:`flmm.sharing.settings`. The frozen models stay where they were published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config
from safetensors.torch import save as serialise

import flmm
from flmm.checkpoints.chosen_weights import PUBLISHED
from flmm.config import load_config, override
from flmm.config.reading import TINY, is_hub_id, resolve_name, suggest
from flmm.files import replace_file
from flmm.fingerprints import hash_bytes
from flmm.grounder import Grounder
from flmm.head_choice import HeadChoice
from flmm.sharing.guard import check_grounder
from flmm.sharing.head_files import (
    CONFIG_FILE,
    FILES,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    find_head,
    read_head,
)
from flmm.sharing.model_card import CardOptions, build_card
from flmm.sharing.part_records import choose_reader, place_refiner, record_reader, record_refiner
from flmm.sharing.settings import decode_settings, encode_settings
from flmm.weights import find_not_finite

# Of the grounder: what serves its training alone.
_TRAINING_SETTINGS = ("loss_mask", "loss_dice", "data_preprocessor")


def save_pretrained(
    model: Grounder,
    config: Config,
    folder: str | Path,
    card: CardOptions | None = None,
    overwrite: bool = False,
) -> Path:
    """Write all that was trained, with what rebuilds it; gives the folder.

    Args:
        config: that ``model`` was built from; of it ``model`` and ``selectors`` are kept.
        folder: made if need be; its other files are left alone.
        overwrite: replace the files of a head, its card included, that lie there.

    Raises:
        FileExistsError: one of the three files is there, and ``overwrite`` is not set.
        TypeError: a setting is an object that no JSON can name.
        ValueError: nobody else could rebuild the model; or a result in ``card`` is of others.
    """
    folder = Path(folder).expanduser()
    _check_target(folder, overwrite)
    state = model.state_dict()
    weights = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    damaged = find_not_finite(weights)
    if damaged is not None:
        raise ValueError(f"{damaged} holds NaN or infinite values: a head is not shared with them")
    content = serialise(weights, metadata={"format": "pt"})
    record = describe_head(model, config)
    record["weights"] = {"file": WEIGHTS_FILE, "sha256": hash_bytes(content)}
    if config.get("weights") == PUBLISHED:
        record["weights"]["trained"] = False
    text = build_card(model, record, folder.resolve().name, card or CardOptions(), config.filename)
    folder.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    for name, data in zip(FILES, (content, text.encode(), lines.encode())):
        replace_file(folder / name, data)
    return folder


def describe_head(model: Grounder, config: Config) -> dict[str, Any]:
    """Every setting of a grounder, defaults written out, and the records of its frozen models."""
    settings = encode_model(config.model)
    reader, refiner = settings["model"], None
    name = str(reader.pop("name_or_path", None))
    reader.pop("device_map", None)
    reader.update((key, value) for key, value in _read_live(model.vlm).items() if key in reader)
    _check_processor(reader.get("processor"))
    choice = getattr(model.mask_head, "choice", None)
    if isinstance(choice, HeadChoice):  # its file may be on this machine alone
        settings["mask_head"]["choice"] = encode_settings(asdict(choice), "model.mask_head.choice")
    if settings.get("sam") is not None:
        refiner = record_refiner(settings["sam"], model.sam)
    presence = model.presence_rule
    if presence is not None and settings["presence"]["rule"] != TINY:
        settings["presence"]["rule"] = asdict(presence.rule)  # a file would stay behind
    check_grounder(decode_settings(settings, "model"))
    has_weights, selectors = not reader.get("random_init"), config.get("selectors")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "flmm_version": flmm.__version__,
        "reader": record_reader(name, model.vlm.model.config, has_weights),
        "refiner": refiner,
        "weights": {},
        "selectors": None if selectors is None else encode_settings(selectors, "selectors"),
        "model": settings,
    }


def encode_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config's ``model`` as JSON, defaults written out, without what serves training alone."""
    kept = {key: value for key, value in settings.items() if key not in _TRAINING_SETTINGS}
    encoded = encode_settings(kept, "model")
    return {key: value for key, value in encoded.items() if key not in _TRAINING_SETTINGS}


def load_pretrained(
    folder_or_hub_id: str | Path,
    revision: str | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> Config:
    """The config of a shared head; its key ``weights`` is the file of what was trained.

    Args:
        revision: branch, tag or commit of a hub repository.
        cfg_options: dotted keys that override settings; ``reader`` is another place of the reader,
            ``model.sam.checkpoint`` of SAM's weights.

    Raises:
        OSError: the head, its reader or its SAM cannot be had; the message says where it belongs.
        ValueError: a file is damaged or names what it may not; reader or SAM are others; or a
            setting in ``cfg_options`` is not known.
    """
    folder = find_head(folder_or_hub_id, revision)
    record = read_head(folder)
    options = dict(cfg_options or {})
    reader = options.pop("reader", None)
    cfg: dict[str, Any] = {"default_scope": "flmm", "weights": str(folder / WEIGHTS_FILE)}
    if record["selectors"] is not None:
        cfg["selectors"] = record["selectors"]
    config = Config(cfg | {"model": record["model"]}, filename=str(folder / CONFIG_FILE))
    override(config, options)
    model = config.model
    config.reader = choose_reader(record["reader"], reader or model.model.get("name_or_path"))
    model.model.name_or_path = config.reader
    if model.get("sam") is not None and record["refiner"] is not None:
        place_refiner(record["refiner"], model.sam, folder)
    return config


def load_config_or_head(name: str | Path, cfg_options: dict[str, Any] | None = None) -> Config:
    """The config that a name means, see :func:`flmm.config.reading.resolve_name`."""
    found = resolve_name(name)
    if isinstance(found, Path) and found.is_file():
        return load_config(found, cfg_options)
    try:
        return load_pretrained(found, cfg_options=cfg_options)
    except OSError as error:
        if isinstance(found, Path) or not suggest(name):
            raise
        raise type(error)(f"{error}{suggest(name)}") from error


def _check_target(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a folder for the head")
    there = [name for name in FILES if (folder / name).exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{folder} holds {', '.join(there)} already: name another folder, or replace them "
            "with overwrite=True (tools/export.py: --overwrite)"
        )


def _check_processor(name: Any) -> None:
    if name not in (None, "tiny") and (not is_hub_id(name) or Path(name).exists()):
        raise ValueError(
            f"model.model.processor is {name}, a folder that only this machine has: put its "
            "files into the reader's folder, or name a hub id"
        )


def _read_live(vlm: Any) -> dict[str, Any]:
    """Settings of a reader as they are at work, where a config may leave them to a default."""
    limits: Sequence[int | None] = getattr(vlm.image_processor, "pixel_limits", (None, None))
    return {
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "token_merge": vlm.token_merge,
        "prompt": vlm.default_prompt,
        "min_pixels": limits[0],
        "max_pixels": limits[1],
    }
