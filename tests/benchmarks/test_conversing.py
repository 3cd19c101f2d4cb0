"""What a conversation costs, on the tiny model and on a small layout of the real classes."""

import pytest
import torch

from flmm.benchmarks import conversing
from flmm.benchmarks.conversing import (
    compute_kv_bytes,
    count_held_bytes,
    count_same,
    limit_context,
    measure_conversing,
    measure_growth,
    measure_third_turn,
)
from flmm.benchmarks.reading_ways import make_image
from flmm.readers import FrozenQwen
from flmm.readers.layouts import build_layout_reader


@pytest.fixture(scope="module")
def tiny():
    return FrozenQwen("tiny", dtype="float32")


@pytest.fixture(scope="module")
def reader(layout):
    return build_layout_reader(layout)


def encode(reader, tokens):
    factor = reader.image_processor.patch_size * reader.image_processor.merge_size
    return reader.image_processor.encode(make_image(tokens, factor))


def test_a_third_turn_writes_what_transformers_writes_in_less_time(reader):
    rows = measure_third_turn(reader, encode(reader, 400), "small", new_tokens=4, repeats=3)
    assert [row["case"] for row in rows] == [
        "fresh start",
        "third turn",
        "third turn, looked at",
    ]
    assert rows[0]["history"] > 400 + 2 * 4
    assert all(row["same_tokens"] == row["new_tokens"] == 4 for row in rows)
    assert rows[0]["ratio"] == 1 and rows[1]["ratio"] < 0.7  # it reads no picture


def test_nothing_but_keys_and_values_grows(tiny, cpu):
    image = encode(tiny, 60)
    with limit_context(tiny, 1200):
        row = measure_growth(tiny, image, "tiny", turns=50)
    cache = tiny.prefill(image).cache.layers
    expected = sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for layer in cache)
    assert row["kv_bytes_per_token"] == compute_kv_bytes(tiny) == 4 * expected
    # Beside them a conversation keeps three positions of eight bytes for each token.
    assert row["bytes_per_token"] == pytest.approx(4 * expected + 24, rel=1e-3)
    assert row["turns"] >= 50 and 1200 - 25 < row["tokens"] <= 1200
    assert (
        f"tokens, this conversation holds {row['tokens']}, and the model reads 1200" in row["end"]
    )
    assert row["end"].endswith("undo some turns, or start a new conversation")


def test_a_conversation_that_keeps_more_is_found(tiny, monkeypatch):
    kept = []
    write = conversing.Dialogue.write

    def write_and_keep(dialogue, count):
        for token in write(dialogue, count):
            kept.append(torch.zeros(1000))
            yield token

    monkeypatch.setattr(conversing.Dialogue, "write", write_and_keep)
    with limit_context(tiny, 300):
        row = measure_growth(tiny, encode(tiny, 60), "tiny", turns=5)
    assert row["growth"] > 1.2


def test_a_context_without_room_is_told(tiny):
    own = tiny.text_config.max_position_embeddings
    with limit_context(tiny, 200), pytest.raises(ValueError, match="200 tokens hold no 50 turns"):
        measure_growth(tiny, encode(tiny, 60), "tiny", turns=50)
    assert tiny.text_config.max_position_embeddings == own


def test_every_storage_counts_once(cpu):
    before = count_held_bytes(cpu)
    values = torch.zeros(1000)
    views = [values[:10], values.view(10, 100)]
    assert count_held_bytes(cpu) - before == 4000
    del values, views
    assert count_held_bytes(cpu) == before


def test_answers_are_compared_up_to_where_they_part():
    assert count_same([1, 2, 3], [1, 2, 4]) == 2
    assert count_same([1, 2], [1, 2, 4]) == 2
    assert count_same([5], [1]) == 0


def test_rows_of_both_readers(layout, cpu, monkeypatch):
    monkeypatch.setattr(conversing, "TINY_IMAGE_TOKENS", 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversing, "measure_growth", lambda *_: {"what": "memory"})
        rows = measure_conversing(layout, None, cpu, image_tokens=48, repeats=1, new_tokens=2)
    assert [row["what"] for row in rows] == [
        *["third turn, tiny model"] * 3,
        "memory",
        *["third turn, small"] * 3,
        "memory",
    ]
