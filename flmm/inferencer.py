"""The human door: words in, masks out, in three lines.

    grounder = GroundingInferencer("configs/tiny/tiny_unet_sam_shapes.py")
    result = grounder("photo.jpg", ["the red circle", "the small blue square"])
    result.masks  # bool [P, H, W]

In: pictures and phrases as people have them; out: :class:`GroundingResult`. Imports neither mmdet
nor mmcv, so that it starts fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor
from tqdm import tqdm

from flmm.engine.checkpoint import load_weights
from flmm.engine.runner import load_config
from flmm.geometry import compute_boxes_xyxy
from flmm.grounder import Grounder
from flmm.registry import MODELS
from flmm.structures import (
    Continuation,
    GroundingOutput,
    GroundingResult,
    ImageInput,
    as_continuations,
    compute_scores,
)

Phrases = Sequence[str | Continuation] | str | Continuation


class GroundingInferencer:
    """Grounds phrases in pictures with a config's model.

    Args:
        config: path of a config, or a ``Config``.
        checkpoint: trained weights (``.pth`` or ``.safetensors``); ``None``: the weights that
            the config names (``weights`` or ``load_from``).
        device: for example "cpu", "cuda:1"; ``None``: a GPU where there is one.
        cfg_options: dotted keys that override the config, for example
            ``{"model.model.name_or_path": "checkpoints/Qwen2.5-VL-3B-Instruct"}``.

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
            config = load_config(config, cfg_options)
        elif cfg_options:
            config.merge_from_dict(cfg_options)
        checkpoint = checkpoint or config.get("weights") or config.get("load_from")
        if checkpoint is None:
            raise ValueError(
                f"{config.filename} names no weights of its own: give checkpoint=, the file that "
                "tools/train.py wrote for this config"
            )
        init_default_scope("flmm")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model: Grounder = MODELS.build(config.model)
        load_weights(self.model, checkpoint)
        self.model.to(self.device).eval()

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
    def describe(self, image: Any, prompt: str | None = None, max_new_tokens: int = 256) -> str:
        """The frozen model's own answer about a picture, from the default or another prompt."""
        prefix = self.model.vlm.prefill(image, prompt)
        return self.model.vlm.generate(prefix, max_new_tokens=max_new_tokens)

    @torch.inference_mode()
    def _ground_one(self, image: Any, phrases: Phrases, return_maps: bool) -> GroundingResult:
        continuations = as_continuations(phrases)
        encoded: ImageInput = self.model.vlm.image_processor.encode(image)
        output = self.model.ground(encoded, continuations)
        names = [phrase for item in continuations for phrase in item.phrases]
        return build_result(names, output, return_maps)


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
