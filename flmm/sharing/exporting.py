"""From the checkpoint of a training, flmm's or F-LMM's own, to a head that can be shared.

The reader is built without its weights, of which a head needs none, so that exporting the head of
a 72B model takes seconds and no GPU. A config with which the checkpoint was not trained is refused;
no pickle in a stranger's checkpoint runs code. Source of F-LMM's names: flmm/models/frozen_*.py,
mask_head/mask_refiner.py and runner.py at 28b5733.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from safetensors.torch import load_file
from torch import Tensor

from flmm.checkpoints.checkpoint import (
    describe_error,
    find_latest_checkpoint,
    load_checkpoint,
    load_trainable,
    save_trainable,
)
from flmm.checkpoints.chosen_weights import PUBLISHED, choose_weights
from flmm.config.text import flatten, read_literals
from flmm.grounder import Grounder
from flmm.registry import MODELS
from flmm.sharing.model_card import CardOptions
from flmm.sharing.settings import show
from flmm.sharing.sharing import encode_model, save_pretrained

# These may differ from the training: where frozen models lie, how fast they run, what was trained.
_FREE_SETTINGS = {
    *("name_or_path", "revision", "processor", "checkpoint"),
    *("device_map", "attn_implementation", "frozen", "presence", "presence_threshold"),
}
# F-LMM's names of what it trained, and flmm's.
RENAMED = {
    "mask_head.": "mask_head.",
    "text_proj.": "text_proj.",
    "text_layer_weights": "text_layer_weights",
    "sam.model.prompt_encoder.": "sam.sam.prompt_encoder.",
    "sam.model.mask_decoder.": "sam.sam.mask_decoder.",
}
_FIRST = "mask_head.encoder.0.0.convs.0.conv.weight"


def export_checkpoint(
    config: Config,
    checkpoint: str | Path,
    folder: str | Path,
    card: CardOptions | None = None,
    overwrite: bool = False,
) -> Path:
    """Share what a training has written; gives the folder.

    Args:
        checkpoint: a file of the training, embedded weights ("tiny"), or a work folder, of which
            the best checkpoint is taken, else the latest; "published": nothing was trained.
        config, folder, card, overwrite: see :func:`flmm.sharing.sharing.save_pretrained`.

    Raises:
        ValueError: the checkpoint was trained with other settings, or its weights do not fit.
    """
    init_default_scope("flmm")
    if checkpoint == PUBLISHED:
        model = build_without_reader_weights(config)
        choose_weights(config, PUBLISHED).load(model)
        return save_pretrained(model, config, folder, card, overwrite)
    path = find_checkpoint(checkpoint)
    content = load_checkpoint(path)
    meta = content.get("meta")
    if isinstance(meta, dict) and isinstance(meta.get("cfg"), str):
        _check_settings(config, meta["cfg"], path)
    model = build_without_reader_weights(config)
    load_trainable(model, content["state_dict"], f"checkpoint {path}")
    return save_pretrained(model, config, folder, card, overwrite)


def find_checkpoint(path: str | Path) -> str:
    """A checkpoint's path as it is; of a work folder its only best checkpoint, else its latest."""
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
    """A config's grounder whose reader has its real config and processor, but no weights."""
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


@dataclass(frozen=True)
class PublishedHead:
    """A checkpoint of F-LMM's.

    Attributes:
        weights: what was trained, under flmm's names.
        left_out: number of tensors of frozen models, which are not read.
        settings: of the model, where the file has its config; else empty.
    """

    weights: dict[str, Tensor]
    left_out: int
    settings: dict[str, Any]

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Attention maps, layers and width of the reader; ``None`` where no weight tells."""
        ends = (_FIRST, 1), ("text_layer_weights", 0), ("text_proj.weight", 1)
        return tuple(
            self.weights[name].shape[dim] if name in self.weights else None for name, dim in ends
        )


class _Inert:
    """Stands for whatever else a pickle holds: takes anything, keeps and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def convert_head(config: Config, checkpoint: str | Path, out: str | Path) -> PublishedHead:
    """Write a checkpoint of F-LMM's as one of a config's, ``out`` (``.safetensors`` or ``.pth``).

    Raises:
        ValueError: it is no checkpoint of F-LMM's, or was made for another reader or mask head.
    """
    if Path(out).suffix not in (".safetensors", ".pth"):
        raise ValueError(f"{out} is no name for weights: end it with .safetensors or .pth")
    head = read_published(checkpoint)
    init_default_scope("flmm")
    model = build_without_reader_weights(config)
    _check_reader(head, model, checkpoint, config)
    # F-LMM saves parameters alone; what its modules only keep is that of the published SAM.
    kept = {name: value for name, value in model.named_buffers() if name in model.state_dict()}
    load_trainable(model, {**kept, **head.weights}, f"F-LMM checkpoint {checkpoint}")
    save_trainable(model, out)
    return head


def read_published(path: str | Path) -> PublishedHead:
    """Read a checkpoint of F-LMM's, its weights alone; any other is refused (ValueError)."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"F-LMM checkpoint {path} does not exist")
    try:
        content = load_file(path) if str(path).endswith(".safetensors") else _load_inert(path)
    except Exception as error:  # torch raises many kinds
        raise ValueError(
            f"F-LMM checkpoint {path} cannot be read without running what it holds "
            f"({describe_error(error)}): save its state_dict alone where it was trained"
        ) from error
    content = content if isinstance(content, dict) else {}
    given = content.get("state_dict", content)
    weights, left_out = {}, 0
    for key, value in given.items() if isinstance(given, dict) else ():
        name = _rename(str(key).removeprefix("module."))
        if name is None:
            left_out += isinstance(value, Tensor)
        else:
            weights[name] = value
    first = weights.get(_FIRST)
    if not isinstance(first, Tensor) or first.ndim != 4:
        raise ValueError(
            f"{path} holds no mask head of F-LMM's (no {_FIRST}): give the .pth of its training, "
            "or one that its authors have published"
        )
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, dict) else None
    settings = read_literals(text).get("model") if isinstance(text, str) else None
    return PublishedHead(weights, left_out, settings if isinstance(settings, dict) else {})


def _load_inert(path: str | Path) -> Any:
    """A torch file whose classes are replaced; torch's own weights-only reader does the rest."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    with torch.serialization.safe_globals([(_Inert, name) for name in names]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _rename(key: str) -> str | None:
    """flmm's name of a trained weight; ``None``: it is of a frozen model."""
    for old, new in RENAMED.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return None


def _check_reader(
    head: PublishedHead, model: Grounder, checkpoint: str | Path, config: Config
) -> None:
    found = head.sizes
    wanted = (model.vlm.num_channels, model.vlm.num_layers, model.vlm.hidden_size)
    if any(size not in (None, other) for size, other in zip(found, wanted)):
        inner = head.settings.get("model")
        name = inner.get("pretrained_model_name_or_path") if isinstance(inner, dict) else None
        made_for = show(name) if isinstance(name, str) else "a model"
        raise ValueError(
            f"F-LMM checkpoint {checkpoint} was made for {made_for} ({_format(found)}), and "
            f"{config.model.model.get('name_or_path')} has {_format(wanted)}: a head serves the "
            "reader of its training alone (docs/f_lmm_checkpoints.md lists the published ones); "
            "train one for this reader with tools/train.py"
        )
    merge = head.settings.get("merge", model.vlm.token_merge)
    if merge != model.vlm.token_merge:
        raise ValueError(
            f"F-LMM checkpoint {checkpoint} was trained with merge={show(merge)}: convert it with "
            f"--cfg-options model.model.token_merge={show(merge)}"
        )


def _format(sizes: tuple[int | None, ...]) -> str:
    names = ("attention maps", "layers", "width")
    return ", ".join(f"{size} {name}" for size, name in zip(sizes, names) if size is not None)
