"""Joins the rooms: frozen reader, mask head and refiner, under mmengine's ``BaseModel``.

It owns no algorithm of its own but the text projection between reader and refiner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from flmm.features import FeatureCache, split_phrases
from flmm.geometry import fit_to_picture, join_grid_maps, resize_maps
from flmm.grounder.losses import MaskLosses, average_phrases
from flmm.masks import ImageEncoding, Refiner, RuleHead, compute_coarse_logits, count_layers
from flmm.masks.second_look import build_second_look
from flmm.presence import PresenceRule, attend_and_ask, check_presence
from flmm.records import (
    Continuation,
    GroundingOutput,
    GroundingSample,
    ImageInput,
    PhraseAttention,
    Span,
    join_attention,
)
from flmm.registry import MODELS
from flmm.results import GroundingResult, make_result
from flmm.selectors import compute_keyword_figures, keep_hidden_states

if TYPE_CHECKING:
    from flmm.readers.base import FrozenVLM, Prefix
    from flmm.readers.boxes import BoxReading
    from flmm.selectors import KeywordSelector


@MODELS.register_module()
class Grounder(BaseModel):
    """Masks of phrases from the attention of a frozen vision-language model.

    Args:
        model: the frozen reader, or its config (``dict(type="FrozenQwen", ...)``).
        mask_head: the mask head, or its config; ``in_channels`` is set from the reader's
            ``num_channels``, or those of the head's ``layers``.
        sam: the refiner, or its config; ``None`` grounds with the coarse mask alone.
        loss_mask: config of the pixel loss; "default": mmdet's sigmoid ``CrossEntropyLoss``;
            ``None``: there is none.
        loss_dice: config of the region loss; "default": mmdet's naive ``DiceLoss`` with eps 1;
            ``None``: there is none.
        data_preprocessor: as in mmengine; it only moves tensors here.
        keyword_selector: tells the names in an answer, or its config; trained on captions.
        second_look: settings of the :class:`SecondLook` that small objects are given outside of
            training; ``None``: none.
        presence: tells whether a phrase's thing is in the picture at all, or its config.
        presence_threshold: outside of training a mask is empty where ``presence`` says less, in
            [0, 1]; ``None``: none is emptied.

    Attributes:
        feature_cache: what the frozen models computed before, asked wherever they would run and
            given what they compute; ``None``: they always run. The engine sets it.

    ``uses_maps``, ``uses_boxes``: what it points by, see :mod:`flmm.ways`.

    Only the mask head, the text projection, the layer weights, the selector and the refiner's
    prompt encoder and mask decoder are trained and appear in ``state_dict()``. The losses (and
    mmdet with them) are built at the first call in mode "loss".

    Source: F-LMM, flmm/models/frozen_deepseek_vl.py. Deviations: attention comes from the
    reader's continuations instead of a full eager pass; true masks are resized without F-LMM's
    shift of half a cell (see ``geometry.resize_masks``).
    """

    uses_maps = True
    uses_boxes = False

    def __init__(
        self,
        model: Any,
        mask_head: Any,
        sam: Any = None,
        loss_mask: Mapping[str, Any] | Literal["default"] | None = "default",
        loss_dice: Mapping[str, Any] | Literal["default"] | None = "default",
        data_preprocessor: Any = None,
        keyword_selector: Any = None,
        second_look: Mapping[str, float] | None = None,
        presence: Any = None,
        presence_threshold: float | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.vlm: FrozenVLM = _build(model)
        per_layer = self.vlm.num_heads * self.vlm.num_grids
        channels = count_layers(mask_head, self.vlm.num_layers) * per_layer
        self.mask_head: nn.Module = _build(mask_head, in_channels=channels)
        if isinstance(self.mask_head, RuleHead):
            self.mask_head.choice.check(self.vlm)
        head_layers = count_layers(self.mask_head, self.vlm.num_layers)
        self.sam: Refiner | None = None if sam is None else _build(sam)
        self.text_proj: nn.Linear | None = None
        self.text_layer_weights: nn.Parameter | None = None
        if self.sam is not None and self.sam.use_text:
            self.text_proj = nn.Linear(self.vlm.hidden_size, self.sam.embed_dim)
            self.text_layer_weights = nn.Parameter(torch.ones(head_layers))
        self.keyword_selector: KeywordSelector | None = None
        if keyword_selector is not None:
            self.keyword_selector = _build(keyword_selector, hidden_size=self.vlm.hidden_size)
        self.second_look = None if second_look is None else build_second_look(second_look, self.sam)
        self.presence_rule: PresenceRule | None = None if presence is None else _build(presence)
        self.presence_threshold = presence_threshold
        check_presence(self.presence_rule, presence_threshold, self.vlm)
        self._losses = MaskLosses(loss_mask, loss_dice)
        self.feature_cache: FeatureCache | None = None

    @property
    def layers(self) -> int:
        """How many of the reader's first layers phrases are read with.

        Those that the mask head and the presence rule look at; all where the reader is asked
        something, and while a keyword selector learns what was thought after the final norm.
        """
        selector, rule = self.keyword_selector, self.presence_rule
        learns = selector is not None and not selector.is_frozen
        if learns or self.uses_boxes or (rule is not None and rule.asks):
            return self.vlm.num_layers
        head_layers = count_layers(self.mask_head, self.vlm.num_layers)
        return max(head_layers, 0 if rule is None else rule.layers)

    def forward(
        self,
        inputs: list[ImageInput],
        data_samples: list[GroundingSample] | None = None,
        mode: str = "tensor",
    ) -> dict[str, Tensor] | list[GroundingSample] | list[GroundingOutput]:
        """Run in one of mmengine's modes.

        Args:
            inputs: B pictures.
            data_samples: their phrases; in mode "loss" with ``gt_masks``.
            mode: "loss" gives a dict of losses and logged figures, "predict" the samples with
                ``pred_masks``, ``coarse_masks`` (bool ``[P, H, W]``), ``scores`` (``[P]``),
                "tensor" one :class:`GroundingOutput` per picture.
        """
        if data_samples is None or len(data_samples) != len(inputs):
            count = 0 if data_samples is None else len(data_samples)
            raise ValueError(f"got {len(inputs)} pictures but {count} data samples: pass one each")
        if mode == "loss":
            return self.compute_loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        if mode == "tensor":
            return self.ground_images(inputs, [sample.continuations for sample in data_samples])
        raise ValueError(f"mode is {mode!r}: use 'loss', 'predict' or 'tensor'")

    def ground(self, image: ImageInput, continuations: list[Continuation]) -> GroundingOutput:
        """Ground the phrases of one picture; see :meth:`ground_images`."""
        return self.ground_images([image], [continuations])[0]

    def ground_images(
        self, images: Sequence[ImageInput], continuations: Sequence[list[Continuation]]
    ) -> list[GroundingOutput]:
        """Ground phrases of pictures of any sizes, read as batches; equals one by one."""
        return self._ground_read(images, self.read_phrases(images, continuations))

    def _ground_read(
        self, images: Sequence[ImageInput], seen: Sequence[PhraseAttention]
    ) -> list[GroundingOutput]:
        return [self.ground_seen(*row) for row in zip(images, seen, self.encode_images(images))]

    @torch.no_grad()
    def read_phrases(
        self, images: Sequence[ImageInput], continuations: Sequence[list[Continuation]]
    ) -> list[PhraseAttention]:
        """Where phrases look: as the feature cache knows, else as the reader sees."""
        cache = self.feature_cache
        if cache is None:
            return self.attend(self._prefill(images), continuations)
        return cache.read_phrases(images, continuations, self._read_to_keep)

    def _read_to_keep(
        self, images: list[ImageInput], continuations: list[list[Continuation]]
    ) -> list[PhraseAttention]:
        """With what the keyword selector will ask for."""
        seen = self.vlm.attend(self._prefill(images), continuations)
        selector = self.keyword_selector
        return [keep_hidden_states(selector, *pair) for pair in zip(seen, continuations)]

    def _prefill(self, images: Sequence[ImageInput]) -> list[Prefix]:
        return self.vlm.prefill(list(images), layers=self.layers)

    @torch.no_grad()
    def encode_images(self, images: Sequence[ImageInput]) -> Sequence[ImageEncoding | None]:
        """Pictures as the refiner sees them (``None`` where there is none), or the cache knows."""
        if self.sam is None:
            return [None] * len(images)
        if self.feature_cache is None:
            return self.sam.encode([image.image for image in images])
        return self.feature_cache.encode(images, self.sam.encode)

    def attend(
        self, prefixes: Sequence[Prefix], continuations: Sequence[list[Continuation]]
    ) -> list[PhraseAttention]:
        """Where phrases look in pictures that were read."""
        if self.presence_rule is not None and self.presence_rule.asks:
            return attend_and_ask(self.vlm, prefixes, continuations)
        return self.vlm.attend(prefixes, continuations)

    def find_boxes(self, prefix: Prefix, phrases: Sequence[str]) -> list[BoxReading] | None:
        """The reader's own boxes of phrases; ``None``: attention alone points here."""
        return None

    def ground_seen(
        self,
        image: ImageInput,
        seen: PhraseAttention,
        encoding: ImageEncoding | None,
        boxes: Sequence[BoxReading] | None = None,
    ) -> GroundingOutput:
        """Masks of phrases that were read in a picture, of which ``encoding`` is the refiner's.

        They may have been read with more layers than the mask head looks at. ``boxes`` are what
        :meth:`find_boxes` gave for them.
        """
        maps, coarse = self.compute_coarse(image, seen)
        if self.sam is None or encoding is None:
            refined = resize_maps(coarse, image.original_size)
        else:
            words = self._embed_text(seen.text_features, maps.device)
            refined = self.sam.refine(encoding, coarse, words)
            if self.second_look is not None and not self.training:
                picture = image.image
                refined = self.second_look.refine(self.sam, picture, coarse, refined, words)
        output = GroundingOutput(maps, coarse, refined)
        if self.presence_rule is None or self.training:
            return output
        return self.presence_rule.judge(seen, output, self.presence_threshold)

    def compute_coarse(self, image: ImageInput, seen: PhraseAttention) -> tuple[Tensor, Tensor]:
        """What the mask head is given, and its logits ``[P, h', w']``, both over the picture."""
        layers = count_layers(self.mask_head, self.vlm.num_layers)
        own = seen.keep_layers(layers, self.vlm.num_heads)
        joined = join_grid_maps(own.grid_maps, image.grids, self.vlm.num_grids)
        maps, logits = compute_coarse_logits(self.mask_head, joined)
        # What the reader did not see is as little the object as anything it saw.
        least = logits.detach().amin((-2, -1))
        box, size = image.grids[0].box, image.original_size
        return fit_to_picture(maps, box, size), fit_to_picture(logits, box, size, least)

    def _embed_text(self, text_features: list[Tensor], device: torch.device) -> list[Tensor] | None:
        """Per phrase ``[L, T, D]`` to ``[T, C]``: the head's layers weighed, then projected."""
        if self.text_proj is None or self.text_layer_weights is None:
            return None
        weights = self.text_layer_weights.softmax(0).to(device)
        dtype = self.text_proj.weight.dtype
        return [
            self.text_proj(torch.einsum("l,ltd->td", weights, f.to(device).to(dtype)))
            for f in (features[: len(weights)] for features in text_features)
        ]

    @torch.no_grad()
    def predict(
        self, inputs: list[ImageInput], data_samples: list[GroundingSample]
    ) -> list[GroundingSample]:
        """Masks of every sample's phrases, written into the samples.

        A sample whose picture is ``None`` (a record that was skipped) passes untouched.
        """
        pairs = [pair for pair in zip(inputs, data_samples) if pair[0] is not None]
        questions = [[sample.continuations] for _, sample in pairs]
        answers = self.predict_images([image for image, _ in pairs], questions)
        for (_, sample), (result,) in zip(pairs, answers):
            sample.pred_masks = torch.tensor(result.masks)
            sample.coarse_masks = torch.tensor(result.coarse_masks)
            sample.scores = torch.tensor(result.scores)
        return data_samples

    @torch.no_grad()
    def predict_images(
        self, images: Sequence[ImageInput], questions: Sequence[list[list[Continuation]]]
    ) -> list[list[GroundingResult]]:
        """Masks of the phrases of several pictures, each read and encoded once.

        Args:
            images: B pictures.
            questions: of each picture, lists of continuations that know nothing of each other.

        Returns:
            per picture one result per question, with its coarse masks.
        """
        seen = self.read_phrases(images, [list(chain(*lists)) for lists in questions])
        rows = zip(images, questions, seen, self.encode_images(images))
        return [self.ground_questions(*row) for row in rows]

    @torch.no_grad()
    def ground_questions(
        self,
        image: ImageInput,
        questions: Sequence[list[Continuation]],
        seen: PhraseAttention,
        encoding: ImageEncoding | None,
        boxes: Sequence[BoxReading] | None = None,
    ) -> list[GroundingResult]:
        """A result per list of continuations, of all of which ``seen`` and ``boxes`` are."""
        parts = iter(split_phrases(seen, list(chain(*questions))))
        results, start = [], 0
        for texts in questions:
            phrases = [phrase for item in texts for phrase in item.phrases]
            part = join_attention([next(parts) for _ in texts])
            own = boxes and boxes[start : start + len(phrases)]
            start += len(phrases)
            results.append(_keep_masks(phrases, self.ground_seen(image, part, encoding, own)))
        return results

    def compute_loss(
        self, inputs: list[ImageInput], data_samples: list[GroundingSample]
    ) -> dict[str, Tensor]:
        """Losses and logged figures, averaged over all phrases of the batch.

        With several processes the batch is that of all of them, and every one must call this.

        Returns:
            ``loss_mask``, ``loss_dice`` (those that are on), ``accuracy``, ``aiou`` of the coarse
            masks and, with a refiner, the same with the prefix ``refined_``; with a keyword
            selector that is not frozen also what ``compute_keyword_figures`` gives.
        """
        self._check_losses()
        totals: dict[str, Tensor] = {}
        count = 0
        continuations = [sample.continuations for sample in data_samples]
        seen = self.read_phrases(inputs, continuations)
        for output, sample in zip(self._ground_read(inputs, seen), data_samples):
            figures = self._losses(output.coarse_mask_logits, sample.gt_masks)
            if self.sam is not None:
                refined = self._losses(output.refined_mask_logits, sample.gt_masks)
                figures.update({f"refined_{key}": value for key, value in refined.items()})
            phrases = len(output.coarse_mask_logits)
            count += phrases
            for key, value in figures.items():
                totals[key] = totals.get(key, 0) + value * phrases
        selector = self.keyword_selector
        learnt = compute_keyword_figures(selector, seen, continuations, self._locate)
        return average_phrases(totals, count) | learnt

    def _check_losses(self) -> None:
        """Of a selector, a loss is computed where it is trained."""
        selector = self.keyword_selector
        if self._losses.all_off and (selector is None or selector.is_frozen):
            raise ValueError(
                "model.loss_mask and model.loss_dice are both None, so that nothing is trained: "
                "leave one of them on"
            )

    def _locate(self, text: str, spans: tuple[Span, ...]) -> list[Span]:
        return self.vlm.plain_text.encode_continuation(Continuation(text, spans)).token_spans


@MODELS.register_module()
class FrozenQwenSAM(Grounder):
    """:class:`Grounder` under the name F-LMM's users know; same arguments."""


def _keep_masks(phrases: list[str], output: GroundingOutput) -> GroundingResult:
    logits, coarse = output.refined_mask_logits, output.coarse_mask_logits
    return make_result(phrases, logits, coarse, **output.remarks)


def _build(module: Any, **defaults: Any) -> Any:
    """A ready module as it is, a config built; ``defaults`` fill in what it does not say."""
    return module if isinstance(module, nn.Module) else MODELS.build({**defaults, **module})
