"""Cost of a conversation: the third turn against a fresh start, and memory over many turns.

In: names of readers, random weights where they are large. Out: rows. A fresh start is what
transformers' ``generate`` is given: the picture and the whole history, read again for every
answer. Masks are not measured here: see ``refining``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from flmm.benchmarks.memory import PeakMemory
from flmm.benchmarks.reading_ways import make_image
from flmm.benchmarks.timing import build_rows, time_alternately
from flmm.readers.context import ContextFullError
from flmm.readers.dialogue import Dialogue
from flmm.readers.layouts import build_layout_reader
from flmm.readers.qwen import FrozenQwen
from flmm.records import ImageInput

Row = dict[str, Any]
QUESTIONS = ("What is in the image?", "Where is the red circle?", "And the blue square?")
TINY_IMAGE_TOKENS = 100


def measure_conversing(
    layout: str,
    layers: int | None,
    device: torch.device,
    image_tokens: int = 1000,
    dtype: str = "float32",
    repeats: int = 3,
    new_tokens: int = 16,
    turns: int = 50,
    context: int = 4096,
) -> list[Row]:
    """The tiny model, then a layout: third turn and memory of each.

    Args:
        layout, layers: see :mod:`flmm.readers.layouts`.
        device: of the readers.
        image_tokens: of the layout's picture.
        dtype: of the layout's weights.
        repeats: timed rounds.
        new_tokens: of every timed answer.
        turns: with which a conversation fills the context.
        context: of the layout, in tokens; what it claims to read would take hours. The tiny model
            keeps its own.
    """
    rows: list[Row] = []
    cases = {
        "tiny model": (lambda: FrozenQwen("tiny", dtype="float32"), TINY_IMAGE_TOKENS, None),
        layout: (lambda: build_layout_reader(layout, layers, dtype), image_tokens, context),
    }
    for name, (build, tokens, limit) in cases.items():
        reader = build()
        reader.to(device)
        factor = reader.image_processor.patch_size * reader.image_processor.merge_size
        image = reader.image_processor.encode(make_image(tokens, factor))
        rows += measure_third_turn(reader, image, name, new_tokens, repeats)
        with limit_context(reader, limit):
            rows.append(measure_growth(reader, image, name, turns))
    return rows


def measure_third_turn(
    reader: FrozenQwen, image: ImageInput, name: str, new_tokens: int = 16, repeats: int = 3
) -> list[Row]:
    """Seconds of a third question and its answer behind two turns, in two ways.

    Args:
        reader: the reader.
        image: the picture, encoded.
        name: of the reader, for the table.
        new_tokens: of each answer; fewer where the reader ends it.
        repeats: timed rounds, the ways in turns.

    Returns:
        rows of ``build_rows``; ``looked at`` is our turn with the attention maps of its answer.
        Beside them ``history``, tokens before the answer; ``new_tokens``, that were written; and
        ``same_tokens``, how many of those transformers writes too before the first other one (in
        half precision two scores can lie too close to tell).

    Raises:
        ValueError: the reader's third answer is empty.
    """
    dialogue = reader.converse(image)
    for question in QUESTIONS[:2]:
        dialogue.ask(question)
        list(dialogue.write(new_tokens))

    def go_on() -> Dialogue:
        turn = dialogue.fork()
        turn.ask(QUESTIONS[2])
        list(turn.write(new_tokens))
        return turn

    def look() -> None:
        turn = go_on()
        turn.look([turn.turns[-1].answer])

    start, end = go_on().turns[-1].answer
    if start == end:
        raise ValueError(f"{name} answers nothing to {QUESTIONS[2]!r}: there is nothing to time")
    said = go_on().input_ids
    inputs = build_inputs(reader, said[:start], image)

    def start_afresh() -> list[int]:
        return generate(reader, inputs, end - start)

    calls = {"fresh start": start_afresh, "third turn": go_on, "third turn, looked at": look}
    rows = build_rows(f"third turn, {name}", time_alternately(calls, reader.device, repeats))
    same = count_same(said[start:end], start_afresh())
    facts = {"history": start, "new_tokens": end - start, "same_tokens": same}
    return [row | facts for row in rows]


def build_inputs(reader: FrozenQwen, ids: list[int], image: ImageInput) -> dict[str, Tensor]:
    """What transformers' model is given for token ids that hold one picture."""
    input_ids = torch.tensor([ids], device=reader.device)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == reader.model.config.image_token_id).int(),
        "pixel_values": reader.image_processor.patchify(
            image.pixel_values.to(reader.device, reader.dtype)
        ),
        "image_grid_thw": image.inputs["image_grid_thw"].to(reader.device),
    }


@torch.inference_mode()
def generate(reader: FrozenQwen, inputs: dict[str, Tensor], new_tokens: int) -> list[int]:
    """Transformers' own greedy answer, as token ids."""
    model: Any = reader.model
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    output = model.generate(**inputs, **greedy, max_new_tokens=new_tokens)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def count_same(first: list[int], second: list[int]) -> int:
    """How many tokens two answers share before they part."""
    pairs = enumerate(zip(first, second))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def measure_growth(reader: FrozenQwen, image: ImageInput, name: str, turns: int = 50) -> Row:
    """Memory of a conversation of short questions that goes on until the context is full.

    Args:
        reader: the reader.
        image: the picture, encoded.
        name: of the reader, for the table.
        turns: at least so many; answers are as long as fills the context with them.

    Returns:
        ``turns`` that there was room for, ``tokens`` of the whole conversation;
        ``kv_bytes_per_token``, which the config implies, and ``bytes_per_token``, by which memory
        grew from the second turn on; ``growth``, their ratio: 1 where nothing but keys and values
        is kept; ``grown_mb``, by all these turns; ``peak_mb``, the greatest memory of the process
        meanwhile less that before them: what grew, and what the passes needed for themselves; and
        ``end``, what the user was told.

    Raises:
        ValueError: the context is too small for so many turns.
    """
    dialogue = reader.converse(image)
    room = find_room(dialogue, turns)
    dialogue.ask(QUESTIONS[2])
    list(dialogue.write(room))
    tokens, held = len(dialogue), count_held_bytes(reader.device)
    with PeakMemory(reader.device) as memory:
        message = fill_context(dialogue, room)
    tokens, held = len(dialogue) - tokens, count_held_bytes(reader.device) - held
    each, peak = compute_kv_bytes(reader), memory.extra_bytes
    return {
        "what": f"memory, {name}",
        "case": f"turns of at most {room} new tokens up to {dialogue.max_tokens}",
        "turns": len(dialogue.turns),
        "tokens": len(dialogue),
        "kv_bytes_per_token": each,
        "bytes_per_token": held / tokens,
        "growth": held / tokens / each,
        "grown_mb": held / 1e6,
        "peak_mb": None if peak is None else peak / 1e6,
        "end": message,
    }


def find_room(dialogue: Dialogue, turns: int) -> int:
    """The longest answers with which so many turns fit into the context; nothing is said."""
    aside = dialogue.fork()
    for _ in range(2):  # the second turn also closes an answer
        before = len(aside)
        aside.ask(QUESTIONS[2])
    question = len(aside) - before
    room = (dialogue.max_tokens - len(dialogue)) // turns - question
    if room < 1:
        raise ValueError(
            f"{dialogue.max_tokens} tokens hold no {turns} turns of {question} behind "
            f"{len(dialogue)}: allow a longer context, or fewer turns"
        )
    return room


def fill_context(dialogue: Dialogue, new_tokens: int) -> str:
    """Ask until the conversation is full; what it says then."""
    while True:
        try:
            dialogue.ask(QUESTIONS[2])
        except ContextFullError as error:
            return str(error)
        list(dialogue.write(new_tokens))


def compute_kv_bytes(reader: FrozenQwen) -> int:
    """Bytes of the keys and values of one token, all layers, as the config has them."""
    config = reader.text_config
    width = getattr(config, "head_dim", None)
    width = width or config.hidden_size // config.num_attention_heads
    size = torch.empty(0, dtype=reader.dtype).element_size()
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * size


def count_held_bytes(device: torch.device) -> int:
    """Bytes of all tensors that are alive, each storage once.

    On a CPU those that Python can reach, because what is resident also shows what the allocator
    keeps for later.
    """
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    # By its class: asking an object itself would wake lazy modules.
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    tensors = [item for item in tensors if item.layout == torch.strided]  # others have no storage
    storages = {item.untyped_storage().data_ptr(): item.untyped_storage() for item in tensors}
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def limit_context(reader: FrozenQwen, tokens: int | None) -> Iterator[None]:
    """Within it the reader's context is said to be so many tokens; ``None``: its own."""
    config = reader.text_config
    own = config.max_position_embeddings
    config.max_position_embeddings = own if tokens is None else tokens
    try:
        yield
    finally:
        config.max_position_embeddings = own


__all__ = [
    "compute_kv_bytes",
    "count_held_bytes",
    "measure_conversing",
    "measure_growth",
    "measure_third_turn",
]
