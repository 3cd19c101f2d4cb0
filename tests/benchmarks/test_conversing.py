"""What a conversation costs, on the tiny model and on a small size of the real classes."""

import pytest
import torch

from flmm.benchmarks import conversing
from flmm.benchmarks.conversing import count_held_bytes, measure_growth, measure_third_turn
from flmm.benchmarks.harness import build_reader, make_image
from flmm.readers import FrozenVLM


@pytest.fixture(scope="module")
def tiny():
    return FrozenVLM("tiny", dtype="float32")


@pytest.fixture
def limit(tiny, monkeypatch):
    """Say that the tiny model reads so many tokens."""
    config = tiny.model.config.get_text_config()
    return lambda tokens: monkeypatch.setattr(config, "max_position_embeddings", tokens)


def test_a_third_turn_writes_what_transformers_writes_in_less_time(size):
    reader = build_reader(size, context=2000)
    assert reader.max_tokens == 2000
    rows = measure_third_turn(reader, make_image(reader, 400), "small", repeats=3, new_tokens=4)
    assert [row["case"] for row in rows] == ["fresh start", "third turn", "third turn, looked at"]
    assert rows[0]["history"] > 400 + 2 * 4
    assert all(row["same_tokens"] == row["new_tokens"] == 4 for row in rows)
    assert rows[0]["ratio"] == 1 and rows[1]["ratio"] < 0.7  # it reads no picture


def test_nothing_but_keys_and_values_grows(tiny, limit):
    limit(1200)
    image = make_image(tiny, 60)
    row = measure_growth(tiny, image, turns=50)
    cache = tiny.prefill(image).cache.layers
    expected = sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for layer in cache)
    assert row["kv_bytes_per_token"] == 4 * expected
    # Beside them a conversation keeps three positions of eight bytes for each token.
    assert row["bytes_per_token"] == pytest.approx(4 * expected + 24, rel=1e-3)
    assert row["turns"] >= 50 and 1200 - 25 < row["tokens"] <= 1200
    assert (
        f"tokens, this conversation holds {row['tokens']}, and the model reads 1200" in row["end"]
    )


def test_a_conversation_that_keeps_more_is_found(tiny, limit, monkeypatch):
    kept = []
    write = conversing.Dialogue.write

    def write_and_keep(dialogue, count):
        for token in write(dialogue, count):
            kept.append(torch.zeros(1000))
            yield token

    monkeypatch.setattr(conversing.Dialogue, "write", write_and_keep)
    limit(300)
    assert measure_growth(tiny, make_image(tiny, 60), turns=5)["growth"] > 1.2


def test_a_context_without_room_is_told(tiny, limit):
    limit(200)
    with pytest.raises(ValueError, match="200 tokens hold no 50 turns"):
        measure_growth(tiny, make_image(tiny, 60), turns=50)


def test_every_storage_counts_once(cpu):
    before = count_held_bytes(cpu)
    values = torch.zeros(1000)
    views = [values[:10], values.view(10, 100)]
    assert count_held_bytes(cpu) - before == 4000
    del values, views
    assert count_held_bytes(cpu) == before
