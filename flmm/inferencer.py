"""The human door: words in, masks out, in three lines.

    grounder = GroundingInferencer("configs/tiny/tiny_unet_sam_shapes.py")
    result = grounder("photo.jpg", ["the red circle", "the small blue square"])
    result.masks  # bool [P, H, W]

In: pictures and phrases as people have them; out: :class:`GroundingResult`. Imports neither mmdet
nor mmcv, so that it starts fast.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor
from tqdm import tqdm

from flmm.conversation import BRACKETS, Chat
from flmm.engine.checkpoint import load_weights
from flmm.engine.model_card import CardOptions
from flmm.engine.sharing import load_config_or_head, load_pretrained, save_pretrained
from flmm.geometry import compute_boxes_xyxy
from flmm.grounder import Grounder
from flmm.images import load_image
from flmm.registry import MODELS
from flmm.structures import (
    Continuation,
    GroundingOutput,
    GroundingResult,
    ImageInput,
    as_continuations,
    compute_scores,
)

if TYPE_CHECKING:
    from flmm.heads import ImageEncoding
    from flmm.vlms.base import Prefix

DEFAULT_SELECTORS = (BRACKETS, "reader")
Phrases = Sequence[str | Continuation] | str | Continuation


class GroundingInferencer:
    """Grounds phrases in pictures with a config's model.

    Args:
        config: path of a config, folder of a shared head (see ``from_pretrained``), or a
            ``Config``.
        checkpoint: trained weights (``.pth`` or ``.safetensors``); ``None``: the weights that
            the config names (``weights`` or ``load_from``).
        device: for example "cpu", "cuda:1"; ``None``: a GPU where there is one.
        cfg_options: dotted keys that override the config, for example
            ``{"reader": "checkpoints/Qwen2.5-VL-3B-Instruct"}``.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        ValueError: no weights are named anywhere, or they do not fit the model.
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path | None = None,
        device: str | torch.device | None = None,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(config, Config):
            config = load_config_or_head(config, cfg_options)
        elif cfg_options:
            config.merge_from_dict(cfg_options)
        checkpoint = checkpoint or config.get("weights") or config.get("load_from")
        if checkpoint is None:
            raise ValueError(
                f"{config.filename} names no weights of its own: give checkpoint=, the file that "
                "tools/train.py wrote for this config"
            )
        init_default_scope("flmm")
        model = MODELS.build(config.model)
        load_weights(model, checkpoint)
        self.config: Config | None = config
        self.selectors = config.get("selectors", DEFAULT_SELECTORS)
        self._set_model(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def from_model(cls, model: Grounder, device: str | torch.device = "cpu") -> GroundingInferencer:
        """The same door to a grounder that is built and trained already."""
        inferencer = cls.__new__(cls)
        inferencer.config, inferencer.selectors = None, DEFAULT_SELECTORS
        inferencer._set_model(model, device)
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
            device: as in the constructor.
            revision: branch, tag or commit of a hub repository.
            cfg_options: as in the constructor; ``{"reader": FOLDER}`` is where the reader is,
                ``{"model.sam.checkpoint": PATH}`` where SAM's weights are.

        Raises:
            OSError, ValueError: see :func:`flmm.engine.sharing.load_pretrained`.
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
            folder: made if need be.
            results: JSON reports of the evaluation tools, for the model card.
            overwrite: replace a head that lies there.
            card: ``repo_id``, ``license`` and ``base_model`` of the model card, see
                :class:`flmm.engine.model_card.CardOptions`.

        Raises:
            OSError, TypeError, ValueError: see :func:`flmm.engine.sharing.save_pretrained`.
        """
        if self.config is None:
            raise ValueError(
                "this inferencer was made from a ready model, whose settings nobody has written "
                "down: build it from a config, or call flmm.engine.sharing.save_pretrained with one"
            )
        config = copy.deepcopy(self.config)
        config.selectors = list(self.selectors)
        save_pretrained(self.model, config, folder, CardOptions(results, **card), overwrite)

    def _set_model(self, model: Grounder, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self._last: _Reading | None = None

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], phrases: Sequence[Phrases], *args: Any, **kw: Any
    ) -> list[GroundingResult]: ...

    @overload
    def __call__(self, image: Any, phrases: Phrases, *args: Any, **kw: Any) -> GroundingResult: ...

    def __call__(
        self,
        image: Any,
        phrases: Any,
        return_maps: bool = False,
        progress: bool | None = None,
    ) -> GroundingResult | list[GroundingResult]:
        """Ground phrases in one picture, or lists of phrases in a list of pictures.

        Args:
            image: path, bytes, PIL image or ndarray (RGB ``[H, W, 3]``); a list or tuple of
                them is a batch.
            phrases: the phrases (or :class:`Continuation`); for a batch one list per picture.
            return_maps: keep ``coarse_mask_logits`` and ``attention_maps`` in the result.
            progress: show a progress bar; ``None``: for more than 8 pictures.

        Returns:
            one result, or a list of them for a batch.

        Raises:
            ValueError: a batch has not one list of phrases per picture, a phrase is blank.
            TypeError, FileNotFoundError: a picture cannot be read; the message names it.
        """
        if not isinstance(image, (list, tuple)):
            return self._ground_one(image, phrases, return_maps)
        if isinstance(phrases, (str, Continuation)) or len(phrases) != len(image):
            raise ValueError(
                f"got {len(image)} pictures and {_count(phrases)}: give one list of phrases per "
                "picture"
            )
        hide = len(image) <= 8 if progress is None else not progress
        pairs = tqdm(zip(image, phrases), total=len(image), disable=hide, unit="image")
        return [self._ground_one(picture, texts, return_maps) for picture, texts in pairs]

    @torch.inference_mode()
    def chat(self, image: Any, selectors: Sequence[Any] | None = None) -> Chat:
        """A conversation about a picture, whose words point into it.

        The picture is read and encoded once, also if phrases of it were grounded just before.

        Args:
            image: as in a call; further pictures can be shown with a question.
            selectors: which words are pointed at, see :class:`flmm.conversation.Chat`; ``None``:
                the config's ``selectors``, or the words in brackets and those that the reader
                names.
        """
        seen = self._read(image)
        chosen = self.selectors if selectors is None else selectors
        return Chat(self.model, seen.prefix, seen.encoding, chosen)

    @torch.inference_mode()
    def describe(self, image: Any, prompt: str | None = None, max_new_tokens: int = 256) -> str:
        """The frozen model's own answer about a picture, from the default or another prompt."""
        if prompt is None:
            prefix = self._read(image).prefix
        else:
            prefix = self.model.vlm.prefill(image, prompt)
        return self.model.vlm.generate(prefix, max_new_tokens=max_new_tokens)

    @torch.inference_mode()
    def _ground_one(self, image: Any, phrases: Phrases, return_maps: bool) -> GroundingResult:
        continuations = as_continuations(phrases)
        seen = self._read(image)
        output = self.model.ground(seen.image, continuations, seen.prefix, seen.encoding)
        names = [phrase for item in continuations for phrase in item.phrases]
        return build_result(names, output, return_maps)

    def _read(self, image: Any) -> _Reading:
        """The picture, read and encoded; the last one is kept, known by its pixels.

        A picture that changed on disk is another picture.
        """
        picture = image if isinstance(image, ImageInput) else load_image(image)
        pixels = picture.image if isinstance(picture, ImageInput) else np.asarray(picture)
        key = (pixels.shape, hashlib.blake2b(pixels.tobytes()).digest())
        reading = self._last  # once: another thread may put its own picture there at any time
        if reading is None or reading.key != key:
            self._last = reading = None  # frees it before the next one is read
            encoded = self.model.vlm.image_processor.encode(picture)
            prefix = self.model.vlm.prefill(encoded)
            refiner = self.model.sam
            encoding = None if refiner is None else refiner.encode_image(encoded.image)
            self._last = reading = _Reading(key, encoded, prefix, encoding)
        return reading


@dataclass(frozen=True)
class _Reading:
    """A picture as the frozen models have seen it; phrases cost little after that."""

    key: tuple[tuple[int, ...], bytes]
    image: ImageInput
    prefix: Prefix
    encoding: ImageEncoding | None


def build_result(
    phrases: list[str], output: GroundingOutput, return_maps: bool = False
) -> GroundingResult:
    """Threshold a grounder's output at probability one half and move it to numpy."""
    logits = output.refined_mask_logits
    masks = logits > 0
    return GroundingResult(
        phrases=phrases,
        masks=_to_numpy(masks),
        scores=_to_numpy(compute_scores(logits)),
        boxes_xyxy=_to_numpy(compute_boxes_xyxy(masks)),
        coarse_mask_logits=_to_numpy(output.coarse_mask_logits.float()) if return_maps else None,
        attention_maps=_to_numpy(output.attention_maps.float()) if return_maps else None,
    )


def _to_numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def _count(phrases: Any) -> str:
    return "one phrase" if isinstance(phrases, (str, Continuation)) else f"{len(phrases)} lists"
