"""The config of a grounder of which nothing is trained, from the names of its reader and refiner.

It is a config like any other, so that evaluation, export and sharing take it. Which heads point is
the duty of ``flmm.without_training.heads``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from flmm.config import load_config, override
from flmm.config.reading import find_recipe
from flmm.masks import Sam2Refiner, SamHQRefiner
from flmm.masks.refiners.segment_anything import tell_architecture
from flmm.readers import FrozenVLM
from flmm.readers.loading import is_embedded
from flmm.readers.loading import load_config as load_model_config
from flmm.sharing.frozen_models import PLACE
from flmm.ways import configure_way

RECIPE = "any_reader_rule_sam_b_refcoco"
# segment-anything's names, and the files that its authors publish.
SAM_FILES = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
SAM_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything/"
# Model types of transformers.
_REFINERS = {"sam2": Sam2Refiner, "sam2_video": Sam2Refiner, "sam_hq": SamHQRefiner}


def configure(
    reader: str | Path | FrozenVLM,
    refiner: str | Path | Mapping[str, Any] | None = "vit_b",
    way: str = "attention",
    base: str | Path | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Config:
    """The config of a reader with a refiner; its heads are not chosen yet.

    Args:
        reader: folder or hub id, ``"tiny"``, or a ready reader, of which the config says all that
            another could build it from.
        refiner: see :func:`configure_refiner`.
        way: what points: ``"attention"``, ``"box"`` or ``"both"``.
        base: a config whose data sets are taken; ``None``: those of F-LMM's papers.
        cfg_options: dotted keys that override the config.

    Raises:
        OSError: weights are not there; the message says where they are to be had.
        ValueError: a setting or a way is not known, or the refiner is none.
    """
    name = reader.model.name_or_path if isinstance(reader, FrozenVLM) else str(reader)
    options = dict(cfg_options or {})
    others = {key: options.pop(key) for key in list(options) if not key.startswith("model.")}
    config = load_config(find_recipe(RECIPE), {"reader": name, **({} if base else others)})
    config.model.sam = configure_refiner(refiner)
    if isinstance(reader, FrozenVLM):
        config.model.model.update(
            type=type(reader).__name__,
            dtype=str(reader.dtype).removeprefix("torch."),
            token_merge=reader.token_merge,
            prompt=reader.default_prompt,
        )
    elif is_embedded(name):
        config.model.model.dtype = "float32"
    if base is not None:
        config = _take_data(config, load_config(base, {"reader": name, **others}))
    config.model = configure_way(way, config.model.model, config.model.sam, heads={})
    if isinstance(refiner, Mapping):  # how it is prompted is the way's to say, unless its user does
        config.model.sam.update(refiner)
    override(config, options)
    return config


def configure_refiner(refiner: str | Path | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A refiner's config, prompted without words: that would have to be trained.

    Args:
        refiner: a key of ``SAM_FILES``, whose weights lie in ``checkpoints/``; ``"tiny"``; a
            checkpoint of segment-anything's; folder or hub id of a SAM 2.1 or a SAM-HQ of
            transformers; a config; ``None``.

    Raises:
        OSError: its weights are not there.
        ValueError: it is no refiner.
    """
    if refiner is None:
        return None
    if isinstance(refiner, Mapping):
        return {"use_text": False, **refiner}
    name, path = str(refiner), Path(refiner).expanduser()
    if name == "tiny":
        return {"type": "SAMRefiner", "model_name": "tiny", "use_text": False}
    if name in SAM_FILES:
        path = PLACE / SAM_FILES[name]
        if not path.is_file():
            raise FileNotFoundError(
                f"SAM's published weights {path} are not here: download {SAM_ADDRESS}{path.name} "
                f"into {PLACE}/, or give the path of your copy as the refiner"
            )
    if path.is_file() or path.suffix in (".pth", ".safetensors"):
        kind = tell_architecture(path)
        return {
            **{"type": "SAMRefiner", "model_name": kind},
            **{"checkpoint": str(path), "use_text": False},
        }
    try:
        model_type = load_model_config(name).model_type
    except OSError as error:
        raise FileNotFoundError(
            f"there is no refiner {name}: give {', '.join(SAM_FILES)} or tiny, a checkpoint of "
            "segment-anything's, or the folder or hub id of a SAM 2.1 or SAM-HQ, such as "
            f"{Sam2Refiner.example}"
        ) from error
    if model_type not in _REFINERS:
        raise ValueError(
            f"refiner {name} is a model of type {model_type}: give one of "
            f"{', '.join(_REFINERS)}, such as {Sam2Refiner.example}"
        )
    return {"type": _REFINERS[model_type].__name__, "name_or_path": name, "use_text": False}


def _take_data(config: Config, base: Config) -> Config:
    """``base`` with the model of ``config``, and pictures as that model reads them."""
    processor = config.test_dataloader.dataset.image_processor
    for loader in ("val_dataloader", "test_dataloader"):
        base[loader].dataset.image_processor = processor
    base.model, base.reader, base.weights = config.model, config.reader, config.weights
    return base
