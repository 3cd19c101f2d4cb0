"""Cost of a conversation: the third turn against a fresh start, and memory over many turns.

A fresh start is what transformers' ``generate`` is given: the picture and the whole history, read
again for every answer.
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flmm.benchmarks.harness import (
    BenchmarkSettings,
    Row,
    build_reader,
    compare_calls,
    make_image,
)
from flmm.meters import PeakMemory
from flmm.readers import FrozenVLM
from flmm.readers.check import build_model_inputs
from flmm.readers.dialogue import Dialogue
from flmm.readers.prompts import ContextFullError

QUESTIONS = ("What is in the image?", "Where is the red circle?", "And the blue square?")
TURNS = 50
NEW_TOKENS = 16
# Of a published size: what it claims to read would take hours to fill.
CONTEXT = 4096


def converse(settings: BenchmarkSettings) -> list[Row]:
    """The tiny model, then a published size: third turn and memory of each."""
    tiny = FrozenVLM("tiny", dtype="float32").to(settings.torch_device)
    rows = _measure_turns(tiny, "tiny model", 100, settings.repeats)
    del tiny
    reader = build_reader(settings.model, settings.layers, settings.dtype, context=CONTEXT)
    reader.to(settings.torch_device)
    return rows + _measure_turns(reader, settings.model, settings.tokens[0], settings.repeats)


def _measure_turns(reader: FrozenVLM, name: str, image_tokens: int, repeats: int) -> list[Row]:
    image = make_image(reader, image_tokens)
    growth = measure_growth(reader, image, TURNS)
    rows = measure_third_turn(reader, image, name, repeats)
    return [*rows, {"what": f"memory, {name}", **growth}]


def measure_third_turn(
    reader: FrozenVLM, image: np.ndarray, name: str, repeats: int, new_tokens: int = NEW_TOKENS
) -> list[Row]:
    """Seconds of a third question and its answer behind two turns.

    Rows of a fresh start, of our turn, and of our turn with the maps of its answer, with
    ``history``, tokens before the answer; ``new_tokens``, that were written; and ``same_tokens``,
    how many of those transformers writes too before the first other one (in half precision two
    scores can lie too close to tell).
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

    said = go_on()
    start, end = said.turns[-1].answer
    if start == end:
        raise ValueError(f"{name} answers nothing to {QUESTIONS[2]!r}: there is nothing to time")
    inputs = build_model_inputs(reader, image, said.input_ids[:start])

    def start_afresh() -> list[int]:
        return generate(reader, inputs, end - start)

    calls = {"fresh start": start_afresh, "third turn": go_on, "third turn, looked at": look}
    rows = compare_calls(f"third turn, {name}", calls, reader.device, repeats)
    pairs = zip(said.input_ids[start:end], start_afresh())
    same = next((at for at, (own, other) in enumerate(pairs) if own != other), end - start)
    facts = {"history": start, "new_tokens": end - start, "same_tokens": same}
    return [row | facts for row in rows]


@torch.inference_mode()
def generate(reader: FrozenVLM, inputs: dict[str, Tensor], new_tokens: int) -> list[int]:
    """Transformers' own greedy answer, as token ids."""
    model: Any = reader.model
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    output = model.generate(**inputs, **greedy, max_new_tokens=new_tokens)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def measure_growth(reader: FrozenVLM, image: np.ndarray, turns: int) -> Row:
    """Memory of a conversation of so many turns that fills the context.

    ``bytes_per_token``, by which memory grew from the second turn on, over ``kv_bytes_per_token``,
    which the config implies, is ``growth``: 1 where nothing but keys and values is kept.
    ``peak_mb`` is with what the passes needed for themselves.
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


def compute_kv_bytes(reader: FrozenVLM) -> int:
    """Bytes of the keys and values of one token, all layers that have attention."""
    config = reader.model.config.get_text_config()
    width = getattr(config, "head_dim", None)
    width = width or config.hidden_size // config.num_attention_heads
    return 2 * reader.num_layers * config.num_key_value_heads * width * reader.dtype.itemsize


def count_held_bytes(device: torch.device) -> int:
    """Bytes of all tensors that are alive, each storage once.

    On a CPU those that Python can reach: what is resident shows what the allocator keeps, too.
    """
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    # By its class: asking an object itself would wake lazy modules.
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    tensors = [item for item in tensors if item.layout == torch.strided]  # others have no storage
    storages = {item.untyped_storage().data_ptr(): item.untyped_storage() for item in tensors}
    return sum(storage.nbytes() for storage in storages.values())
