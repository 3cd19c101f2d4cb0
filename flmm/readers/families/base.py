"""What a family of vision-language models says of itself.

Always ``model_types`` and ``layout``: which image tokens form which grids over the picture. The
rest has defaults that serve most models: ``check``, what it refuses; its template and what a
processor writes beside a picture; positions and token types; ``collate``, pixels of several
pictures in one pass; what its conversations can do; ``box_format``. Not its duty: passes,
tokenising, masks.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flmm.readers.boxes import BoxFormat
from flmm.records import Box, Grid

PROMPT_SLOT = "FLMM PROMPT SLOT"
ANSWER_SLOT = "FLMM ANSWER SLOT"
DEFAULT_PROMPT = "Please give me a description of the image."  # F-LMM's
_ANSWER = {"role": "assistant", "content": [{"type": "text", "text": ANSWER_SLOT}]}


@dataclass(frozen=True)
class Seen:
    """What a layout may look at.

    Attributes:
        columns: int64 ``[n]``, where the picture's image tokens stand in the sequence, in order.
        size: (H, W) pixels of the picture as given.
        inputs: what the processor gave for this picture alone: pixels, sizes, ``input_ids``.
    """

    columns: Tensor
    size: tuple[int, int]
    inputs: Mapping[str, Any]

    @property
    def whole(self) -> Box:
        """The box of the whole picture."""
        return (0.0, 0.0, float(self.size[1]), float(self.size[0]))

    def split(self, *counts: int) -> list[Tensor]:
        """The columns as consecutive parts of these lengths.

        Raises:
            ValueError: they are not all columns.
        """
        if sum(counts) != len(self.columns):
            raise ValueError(
                f"the picture of {self.size[1]} x {self.size[0]} px has {len(self.columns)} image "
                f"tokens, its layout needs {sum(counts)}: load model and processor from the same "
                "folder"
            )
        return list(self.columns.split(counts))


class Family(ABC):
    """A family, for one model and its processor.

    Args:
        config: of the model.
        processor: its unified processor.

    Attributes:
        model_types: the ``config.model_type`` it reads.
        num_grids: grids whose maps a mask head is given: 2 where a thumbnail (the last grid) is
            seen beside the finest grid, else 1; the same for every picture.
        prompt: the default one.
        special: what is special about reading it, half a sentence for the table of families.
        converses: whether a question may follow an answer.
        max_pictures: that one conversation may hold; ``None``: any number.
        prompt_changes_image: a picture is read together with the prompt behind it, so that another
            question is another reading of the picture.
        suffix_type: in the per-token inputs of :meth:`token_types` what text behind a prefill is.
        image_options: further arguments of the processor.
        own_options: names of image options that are the family's own, no arguments of the
            processor: settings of its image processor, read there by the family.
        template_options: what its chat template is told besides, where it asks.
        image_processor: what makes pictures ready, of the processor, where that is quicker than the
            unified processor itself.
    """

    model_types: ClassVar[tuple[str, ...]]
    num_grids: ClassVar[int] = 1
    prompt: ClassVar[str] = DEFAULT_PROMPT
    special: ClassVar[str] = ""
    converses: bool = True
    max_pictures: ClassVar[int | None] = None
    prompt_changes_image: ClassVar[bool] = False
    suffix_type: ClassVar[int] = 0
    image_options: ClassVar[Mapping[str, Any]] = {}
    own_options: ClassVar[tuple[str, ...]] = ()
    template_options: ClassVar[Mapping[str, Any]] = {}
    image_processor: ClassVar[Any] = None

    def __init__(self, config: Any, processor: Any) -> None:
        self.config, self.processor = config, processor
        self.check()

    @property
    def placeholder(self) -> str:
        """What stands for a picture in a text, before it is expanded."""
        return self.processor.image_token

    @property
    def picture_text(self) -> str:
        """The text beside which the processor makes a picture ready."""
        return self.placeholder

    @property
    def tokenizer(self) -> Any:
        """What makes tokens of templates and of plain text."""
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int:
        """What the processor writes for a part of a picture, in place of the placeholder."""
        return self.processor.image_token_id

    def check(self) -> None:
        """Refuse what is not read exactly.

        Raises:
            ValueError: model and processor do not belong together, or the model is of a kind that
                flmm does not read.
        """
        config, text = self.config, self.config.get_text_config()
        if config.model_type not in self.model_types:
            raise ValueError(
                f"model type {config.model_type!r} is not one of {', '.join(self.model_types)}"
            )
        if config.image_token_id != self.image_token_id:
            raise ValueError(
                f"the model has image token id {config.image_token_id}, the processor "
                f"{self.image_token_id}: load both from the same folder"
            )
        window = getattr(text, "use_sliding_window", True) and getattr(text, "sliding_window", None)
        if window and not getattr(text, "layer_types", None):
            raise ValueError(
                f"this {text.model_type} looks through a sliding window of {window} tokens, but "
                "its config does not say in which layers: give it layer_types, or set "
                "sliding_window to null"
            )

    def change_images(self, options: Mapping[str, Any]) -> Family:
        """The family of the same model with other settings of the processor's image processor.

        Layouts read them there: as arguments of a call they would be unknown to a layout.
        """
        if not options:
            return self
        inner, processor = self.processor.image_processor, copy.copy(self.processor)
        kind = self.choose_image_processor(options)
        processor.image_processor = kind.from_dict({**inner.to_dict(), **options})
        return type(self)(self.config, processor)

    def choose_image_processor(self, options: Mapping[str, Any]) -> Any:
        """The class that makes pictures with these settings: the processor's own."""
        return type(self.processor.image_processor)

    @property
    def box_format(self) -> BoxFormat:
        """How its models are asked for boxes, and in which frame they answer.

        Raises:
            ValueError: no source says so.
        """
        raise ValueError(
            f"how a {self.config.model_type!r} model names boxes is not known: point by attention, "
            "use another reader, or add box_format to its file in flmm/readers/families"
        )

    @abstractmethod
    def layout(self, seen: Seen) -> list[Grid]:
        """The grids over one picture, finest first, coarsest last."""

    @property
    def over_patches(self) -> bool:
        """Whether a layout's cells are finer than image tokens.

        A cell's column is then that of the token in whose place it lies. To a list that it takes
        as ``cell_weights`` the model adds, for each picture, how much each token looked at each
        cell: see ``ImageInput.cell_weights``.
        """
        return False

    def render(self, images: int, is_first: bool) -> tuple[str, str]:
        """The chat template's text before and after the question of a user turn.

        Args:
            images: pictures of the turn, each one placeholder, before the question.
            is_first: nothing stands before; otherwise the turn begins behind the last token of an
                answer, and closes it.

        Raises:
            ValueError: the template writes the question not exactly once.
        """
        content = [{"type": "image"}] * images + [{"type": "text", "text": PROMPT_SLOT}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if not is_first:
            earlier = [{"type": "text", "text": "question"}]
            messages.insert(0, _ANSWER)
            messages.insert(0, {"role": "user", "content": earlier})
        rendered = self._apply_template(messages, add_generation_prompt=True)
        parts = rendered.rpartition(ANSWER_SLOT)[2].split(PROMPT_SLOT)
        if len(parts) != 2:
            raise ValueError(
                f"the chat template writes the prompt {len(parts) - 1} times: it must once"
            )
        return parts[0], parts[1]

    @property
    def answer_gap(self) -> str:
        """White space that the chat template writes between a turn and its answer.

        The model writes it itself; words that are put into its mouth must bring it.
        """
        if not self.converses or self.processor.chat_template is None:
            return ""
        question = {"role": "user", "content": [{"type": "text", "text": PROMPT_SLOT}]}
        rendered = self._apply_template([question, _ANSWER])
        between = rendered.partition(PROMPT_SLOT)[2].partition(ANSWER_SLOT)[0]
        gap = between.removeprefix(self.render(0, is_first=True)[1])
        return gap if gap.isspace() else ""

    def _apply_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        template = str(self.processor.chat_template)  # transformers warns of what it does not name
        options |= {key: told for key, told in self.template_options.items() if key in template}
        rendered = self.processor.apply_chat_template(messages, tokenize=False, **options)
        if f"{ANSWER_SLOT}'}}]" not in rendered:
            return rendered
        # This template takes an answer as a string alone, and writes a list as Python does.
        said = {"role": "assistant", "content": ANSWER_SLOT}
        messages = [said if message is _ANSWER else message for message in messages]
        return self.processor.apply_chat_template(messages, tokenize=False, **options)

    def write_for_processor(self, prompt: str) -> str:
        """The text from which the processor makes the first turn, about one picture."""
        before, after = self.render(1, is_first=True)
        return before + prompt + after

    def locate(
        self, model: Any, input_ids: Sequence[int], images: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Positions of tokens that hold all of ``images``: counting up from 0.

        Args:
            model: the transformers model.
            input_ids: S token ids, pictures expanded.
            images: what the processor gave for each picture, in order.

        Returns:
            int64 ``[axes, S]`` on the CPU.
        """
        return torch.arange(len(input_ids))[None]

    def token_types(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Per-token inputs of a prefill, such as which tokens are a picture's.

        Args:
            input_ids: ``[B, S]``.

        Returns:
            integers ``[B, S]`` by the name of the model's input.
        """
        return {}

    def cut_picture(self, input_ids: Tensor) -> Tensor:
        """The picture's own tokens, of all that the processor writes for the placeholder alone.

        Text at either end, such as blank lines, is joined with the template's next to it.

        Args:
            input_ids: ``[n]``.
        """
        begin = self.processor.tokenizer("")["input_ids"]  # what stands before every text
        starts = input_ids[: len(begin)].tolist() == begin
        return input_ids[len(begin) :] if starts else input_ids

    def collate(self, images: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The model's picture inputs for several pictures in one pass, one behind the other.

        Args:
            images: what the processor gave for each.
        """
        return {key: torch.cat([item[key] for item in images]) for key in images[0]}
