"""From a checkpoint of a training to a head that can be shared.

In: the training's config and checkpoint. Out: the folder of :mod:`flmm.sharing.sharing`. The reader
is built without its weights, of which a head needs none, so that exporting the head of a 72B model
takes seconds and no GPU. A config with which the checkpoint was not trained is refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from flmm.checkpoints.checkpoint import load_checkpoint, load_trainable
from flmm.checkpoints.checkpoint_files import find_latest_checkpoint
from flmm.config.text import flatten, read_literals
from flmm.grounder import Grounder
from flmm.registry import MODELS
from flmm.sharing.model_card import CardOptions
from flmm.sharing.sharing import encode_model, save_pretrained

# These may differ from the training: where frozen models lie, how fast they run, what was trained.
_FREE_SETTINGS = {
    *("name_or_path", "revision", "processor", "checkpoint"),
    *("device_map", "attn_implementation", "frozen"),
}


def export_checkpoint(
    config: Config,
    checkpoint: str | Path,
    folder: str | Path,
    card: CardOptions | None = None,
    overwrite: bool = False,
) -> Path:
    """Share what a training has written; gives the folder.

    Args:
        checkpoint: a file of the training (``best_*.pth``, ``iter_*.pth``, ``.safetensors``) or its
            work folder, of which the best checkpoint is taken, else the latest; or embedded
            weights ("tiny").
        config, folder, card, overwrite: see :func:`flmm.sharing.sharing.save_pretrained`.

    Raises:
        OSError: a file does not exist, or the folder holds a head already.
        ValueError: the checkpoint was trained with other settings, or its weights do not fit.
    """
    path = find_checkpoint(checkpoint)
    content = load_checkpoint(path)
    init_default_scope("flmm")
    meta = content.get("meta")
    if isinstance(meta, dict) and isinstance(meta.get("cfg"), str):
        _check_settings(config, meta["cfg"], path)
    model = build_without_reader_weights(config)
    load_trainable(model, content["state_dict"], f"checkpoint {path}")
    return save_pretrained(model, config, folder, card, overwrite)


def find_checkpoint(path: str | Path) -> str:
    """A checkpoint's path as it is; of a work folder its best checkpoint, else its latest.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it has several best ones.
    """
    if not Path(path).is_dir():
        return str(path)
    best = sorted(Path(path).glob("best_*.pth"))
    if len(best) > 1:
        names = ", ".join(item.name for item in best)
        raise ValueError(f"{path} has several best checkpoints, {names}: name one of them")
    found = best[0] if best else find_latest_checkpoint(path, warn=print)
    if found is None:
        raise FileNotFoundError(f"{path} has no checkpoint: name one, or train first")
    return str(found)


def build_without_reader_weights(config: Config) -> Grounder:
    """A config's grounder whose reader has its real config and processor, but no weights.

    Raises:
        OSError, ValueError: as the reader's and the refiner's own constructors.
    """
    with torch.device("meta"):
        reader = MODELS.build({**config.model.model, "random_init": True})
    return MODELS.build({**config.model, "model": reader})


def _check_settings(config: Config, text: str, path: str) -> None:
    """Settings that leave the weights' shapes alone would go wrong without a sound."""
    trained = read_literals(text).get("model")
    if not isinstance(trained, dict):
        return
    now = dict(flatten(encode_model(config.model), "model"))
    try:
        then = encode_model(trained)
    except ValueError as error:
        raise ValueError(f"checkpoint {path}, in the config it holds: {error}") from error
    for name, value in flatten(then, "model"):
        is_free = not _FREE_SETTINGS.isdisjoint(name.split("."))
        if not is_free and now.get(name, value) != value:
            raise ValueError(
                f"checkpoint {path} was trained with {name}={value!r}, this config has "
                f"{now[name]!r}: give its own config, or --cfg-options {name}={value}"
            )
