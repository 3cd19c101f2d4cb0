"""The human door: words in, masks out, in three lines.

    grounder = GroundingInferencer("tiny")
    result = grounder("photo.jpg", ["the red circle", "the small blue square"])
    result.masks  # bool [P, H, W]

Imports neither mmdet nor mmcv, so that it starts fast.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from tqdm import tqdm

from flmm.batches import Task, is_stream, pair_pictures, run_batch
from flmm.checkpoints.chosen_weights import ChosenWeights, choose_weights
from flmm.config import override
from flmm.conversation import BRACKETS, Chat
from flmm.fingerprints import hash_picture
from flmm.grounder import Grounder, Reading, ground_readings, read_images
from flmm.images import load_any_image
from flmm.readers import FrozenVLM
from flmm.records import Continuation, ImageInput, as_continuations
from flmm.registry import MODELS
from flmm.results import GroundingResult, ResultPicture, collect_result
from flmm.sharing.model_card import CardOptions
from flmm.sharing.sharing import load_config_or_head, load_pretrained, save_pretrained
from flmm.without_training.building import build_grounder, settle_heads
from flmm.without_training.parts import configure

DEFAULT_SELECTORS = (BRACKETS, "reader")
Phrases = Sequence[str | Continuation] | str | Continuation


class GroundingInferencer:
    """Grounds phrases in pictures with a config's model.

    Args:
        config: path or bare name of a config, folder or hub id of a shared head (see
            ``from_pretrained``), ``"tiny"`` (the embedded toy), or a ``Config``.
        checkpoint: trained weights (``.pth`` or ``.safetensors``); ``None``: the weights that
            the config names (``weights``, else ``load_from``).
        device: for example "cpu", "cuda:1"; ``None``: a GPU where there is one.
        cfg_options: dotted keys that override the config, for example
            ``{"reader": "checkpoints/Qwen2.5-VL-3B-Instruct"}``.
    """

    # The picture that was read last, and what it is known by.
    _last: tuple[Any, Reading] | None = None

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path | None = None,
        device: str | torch.device | None = None,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(config, Config):
            config = load_config_or_head(config, cfg_options)
        else:
            override(config, cfg_options)
        self.weights: ChosenWeights | None = choose_weights(config, checkpoint)
        init_default_scope("flmm")
        model = MODELS.build(config.model)
        self.weights.load(model)
        self.config: Config | None = config
        self.selectors = config.get("selectors", DEFAULT_SELECTORS)
        self.device = _choose_device(device)
        self.model: Grounder = model.to(self.device).eval()

    @classmethod
    def from_model(cls, model: Grounder, device: str | torch.device = "cpu") -> GroundingInferencer:
        """The same door to a grounder that is built and trained already."""
        inferencer = cls.__new__(cls)
        inferencer.config = inferencer.weights = None
        inferencer.selectors = DEFAULT_SELECTORS
        inferencer.device = torch.device(device)
        inferencer.model = model.to(inferencer.device).eval()
        return inferencer

    @classmethod
    def from_reader(
        cls,
        reader: str | Path | FrozenVLM,
        refiner: str | Path | Mapping[str, Any] | None = "vit_b",
        *,
        heads: Any = None,
        way: str = "attention",
        pictures: Sequence[Any] = (),
        device: str | torch.device | None = None,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> GroundingInferencer:
        """A reader and a refiner as they were published; see ``docs/without_training.md``.

        Which heads of the reader point is kept from before, or chosen without labels from
        ``pictures``, else from the first pictures that are grounded; the log says how.

        Args:
            reader: folder or hub id, ``"tiny"``, or a ready reader.
            refiner: ``"vit_b"``, ``"vit_l"``, ``"vit_h"`` (of ``checkpoints/``), ``"tiny"``, a
                checkpoint of SAM's, a folder or hub id, a config, or ``None``: coarse masks.
            heads: path of a JSON of ``tools/rank_heads.py``, a choice, or a list of (layer, head).
            way: what points: where the words look (``"attention"``), the reader's own boxes
                (``"box"``), or ``"both"``.
            pictures: a handful, such as will be grounded; each may be a pair with its phrases.

        Raises:
            OSError: weights are not there; the message says where they are to be had.
            ValueError: the heads are another reader's, or a name means nothing.
        """
        config = configure(reader, refiner, way, cfg_options=cfg_options)
        ready, device = reader if isinstance(reader, FrozenVLM) else None, _choose_device(device)
        model = build_grounder(config, ready, device, heads, pictures)
        inferencer = cls.from_model(model, device)
        if config.reader:  # else nobody could build the reader again
            inferencer.config, inferencer.weights = config, choose_weights(config)
            inferencer.weights.load(model)
        inferencer.selectors = config.selectors
        return inferencer

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        device: str | torch.device | None = None,
        revision: str | None = None,
        cfg_options: dict[str, Any] | None = None,
    ) -> GroundingInferencer:
        """A shared head with its frozen reader; see ``docs/sharing.md``.

        Args:
            folder_or_hub_id: what :meth:`save_pretrained` wrote, here or on the hub.
            revision: branch, tag or commit of a hub repository.
            cfg_options: as in the constructor; ``{"reader": FOLDER}`` is where the reader is,
                ``{"model.sam.checkpoint": PATH}`` where SAM's weights are.
        """
        return cls(load_pretrained(folder_or_hub_id, revision, cfg_options), device=device)

    def save_pretrained(
        self,
        folder: str | Path,
        results: Sequence[str | Path] = (),
        overwrite: bool = False,
        **card: str,
    ) -> None:
        """Write all that was trained and every setting, for :meth:`from_pretrained`.

        Args:
            results: JSON reports of the evaluation tools, for the model card.
            overwrite: replace a head that lies there.
            card: ``repo_id``, ``license`` and ``base_model``, for the model card.
        """
        if self.config is None:
            raise ValueError(
                "this inferencer was made from a ready model, whose settings nobody has written "
                "down: build it from a config, or call flmm.sharing.save_pretrained with one"
            )
        config = copy.deepcopy(self.config)
        config.selectors = list(self.selectors)
        save_pretrained(self.model, config, folder, CardOptions(results, **card), overwrite)

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], phrases: Any, *args: Any, **kw: Any
    ) -> list[GroundingResult]: ...

    @overload
    def __call__(
        self, image: Iterator[Any], phrases: Any, *args: Any, **kw: Any
    ) -> Iterator[GroundingResult]: ...

    @overload
    def __call__(self, image: Any, phrases: Phrases, *args: Any, **kw: Any) -> GroundingResult: ...

    def __call__(
        self,
        image: Any,
        phrases: Any,
        return_maps: bool = False,
        progress: bool | None = None,
        return_probs: bool = False,
        on_error: str = "raise",
    ) -> Any:
        """Ground phrases in one picture, or in a list or an iterator of pictures.

        Pictures of a batch are read together, up to 16 at a time.

        Args:
            image: path, http(s) or ``data:`` address, bytes, binary stream, PIL image, array
                ``[H, W, 3]`` or tensor ``[3, H, W]``; a list or tuple of them is a batch, an
                iterator a batch whose results come as they are ready.
            phrases: the phrases (or :class:`Continuation`). For a batch: one phrase or a list of
                phrases is for every picture; a list of lists, or an iterator of lists, has one
                list per picture.
            return_maps: keep ``coarse_mask_logits`` and ``attention_maps`` in the result.
            progress: show a progress bar; ``None``: for a list of more than 8 pictures.
            return_probs: keep ``probs`` in the result, 4 bytes for each pixel and phrase.
            on_error: ``"raise"`` where a picture cannot be read or its phrases are wrong, or
                ``"return"``: the exception stands in its result's place. In a batch both name the
                picture.

        Returns:
            one result; of a list a list of them; of an iterator a generator, which takes at most
            17 pictures more than it has given results of.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}: give 'raise' or 'return'")
        keep = {"return_maps": return_maps, "return_probs": return_probs}
        is_list = isinstance(image, (list, tuple))
        if not is_list and not is_stream(image):
            try:
                continuations = as_continuations(phrases)
                return self._ground([self._read(image)], [continuations], [image], keep)[0]
            except Exception as error:
                if on_error == "raise":
                    raise
                return error
        results = run_batch(
            pair_pictures(image, phrases),
            lambda given: self.model.vlm.image_processor.encode(_load(given)),
            functools.partial(self._ground_tasks, keep=keep),
            raises=on_error == "raise",
        )
        if not (len(image) > 8 if progress is None and is_list else progress):
            return list(results) if is_list else results
        shown = tqdm(results, total=len(image) if is_list else None, unit="image")
        return list(shown) if is_list else iter(shown)

    @torch.inference_mode()
    def chat(self, image: Any, selectors: Sequence[Any] | None = None) -> Chat:
        """A conversation about a picture, read and encoded once also if it was grounded before.

        ``selectors``: which words point, see :class:`flmm.conversation.Chat`; ``None``: those of
        the config, else the words in brackets and those that the reader names.
        """
        seen = self._read(image, answers=True)
        settle_heads(self.model, [seen])
        chosen = self.selectors if selectors is None else selectors
        return Chat(self.model, seen.prefix, seen.encoding, chosen)

    @torch.inference_mode()
    def describe(self, image: Any, prompt: str | None = None, max_new_tokens: int = 256) -> str:
        """The frozen model's own answer about a picture, from the default or another prompt."""
        vlm = self.model.vlm
        if prompt is None:
            prefix = self._read(image, answers=True).prefix
        else:
            prefix = vlm.prefill(_load(image), prompt)
        return vlm.generate(prefix, max_new_tokens=max_new_tokens)

    @torch.inference_mode()
    def _ground_tasks(self, tasks: Sequence[Task], keep: dict[str, bool]) -> list[GroundingResult]:
        readings = read_images(self.model, [task.image for task in tasks if task.image is not None])
        continuations = [task.continuations for task in tasks]
        return self._ground(readings, continuations, [task.given for task in tasks], keep)

    @torch.inference_mode()
    def _ground(
        self,
        readings: Sequence[Reading],
        continuations: Sequence[list[Continuation]],
        given: Sequence[Any],
        keep: dict[str, bool],
    ) -> list[GroundingResult]:
        """Results of pictures that were read, called as ``given``."""
        settle_heads(self.model, readings, continuations)
        results = []
        outputs = ground_readings(self.model, readings, continuations)
        for reading, texts, name, parts in zip(readings, continuations, given, outputs):
            phrases = [phrase for item in texts for phrase in item.phrases]
            picture = ResultPicture.keep(name, reading.prefix.image_input.image)
            results.append(collect_result(phrases, parts, picture, **keep))
        return results

    @torch.inference_mode()
    def _read(self, image: Any, answers: bool = False) -> Reading:
        """The picture, read and encoded; the last one is kept, known by pixels and resolution."""
        picture = _load(image)
        if isinstance(picture, ImageInput):
            grids = tuple((item.size, item.box) for item in picture.grids)
            key: Any = (grids, hash_picture(picture.image))
        else:
            key = (None, hash_picture(np.asarray(picture)))
        last = self._last  # once: another thread may put its own picture there at any time
        if last is None or last[0] != key:
            self._last = last = None  # frees it before the next one is read
            encoded = self.model.vlm.image_processor.encode(picture)
            layers = self.model.vlm.num_layers if answers else None
            self._last = last = (key, read_images(self.model, [encoded], layers)[0])
        return last[1]


def _choose_device(device: str | torch.device | None) -> torch.device:
    """What is given, else a GPU where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _load(image: Any) -> ImageInput | Image.Image:
    """A person's picture: upright, also from an address."""
    return image if isinstance(image, ImageInput) else load_any_image(image)
