"""Rows of attention: the weights that are read, whatever the chunks, and what is never held."""

import functools
import math
import types

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModel, DynamicCache

from flmm.readers import FrozenQwen, attention
from flmm.readers.attention import (
    RowReader,
    build_continuation_mask,
    build_layer_masks,
    row_attention_forward,
)
from flmm.readers.families import Family
from flmm.records import Continuation
from tests.readers.conftest import FEW
from tests.readers.test_reader_contract import CAPTION, PHRASES, ShapeRecorder, relative_difference
from tests.small_models import build_small_model, load_processor

FAMILIES = FEW
BATCH, HEADS, KEY_HEADS, ROWS, PREFIX, WIDTH, LAYERS = 2, 6, 2, 23, 70, 8, 3
SPANS = [[(0, 5), (5, 23), (3, 9), (22, 23), (0, 23)], [(1, 2), (4, 19)]]  # some overlap
COLUMNS = [slice(4, 64), slice(10, 40)]


@pytest.fixture()
def states():
    """Query, key and value of a layer."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, ROWS), (KEY_HEADS, PREFIX + ROWS), (KEY_HEADS, PREFIX + ROWS)]
    return [torch.randn(BATCH, *shape, WIDTH, generator=generator) * 2 for shape in shapes]


@pytest.fixture()
def mask():
    owners = torch.arange(4).repeat_interleave(torch.tensor([5, 7, 8, 3])).expand(BATCH, -1)
    prefix_mask = torch.ones(BATCH, PREFIX, dtype=torch.bool)
    prefix_mask[1, 50:] = False
    return build_continuation_mask(owners, prefix_mask, torch.float32)


def read_rows(states, mask, token_merge):
    reader = RowReader(SPANS, COLUMNS, ROWS, range(LAYERS), HEADS, token_merge, torch.device("cpu"))
    for layer in range(LAYERS):
        scaled = [states[0] * (1 + layer), *states[1:]]
        module = types.SimpleNamespace(layer_idx=layer)
        output, _ = row_attention_forward(module, *scaled, mask, row_reader=reader)
    return output, reader.finish()


@pytest.mark.parametrize("token_merge", ["mean", "max"])
@pytest.mark.parametrize("values", [1, 2500, 10**9], ids=["row by row", "chunks", "whole"])
def test_rows_equal_torchs_own_attention(states, mask, token_merge, values, monkeypatch):
    monkeypatch.setattr(attention, "MAX_SCORES", values)
    with ShapeRecorder() as recorder:
        output, maps = read_rows(states, mask, token_merge)
    query, key, value = states
    # Weights as torch gives them: attention over the identity as values.
    keys = key.shape[2]
    identity = torch.eye(keys).expand(BATCH, KEY_HEADS, -1, -1)
    for layer in range(LAYERS):
        scaled = query * (1 + layer)
        expected = scaled_dot_product_attention(scaled, key, value, mask, enable_gqa=True)
        weights = scaled_dot_product_attention(scaled, key, identity, mask, enable_gqa=True)
        for image, (spans, columns) in enumerate(zip(SPANS, COLUMNS)):
            for phrase, (start, end) in enumerate(spans):
                rows = weights[image, :, start:end, columns]
                wanted = rows.mean(1) if token_merge == "mean" else rows.amax(1)
                got = maps[image][phrase, layer * HEADS : (layer + 1) * HEADS]
                assert relative_difference(got, wanted) < 1e-6
    assert relative_difference(output, expected.transpose(1, 2)) < 1e-6
    scores = [math.prod(shape) for shape in recorder.shapes if shape[-1] == keys]
    assert max(scores) <= max(values, BATCH * HEADS * keys, mask.numel())


def test_maps_stay_within_one():
    """Rows that look at one cell alone: their mean is 1, not a little more."""
    spans = [[(0, count) for count in range(1, 50)]]
    reader = RowReader(spans, [slice(0, 1)], 49, [0], 1, "mean", torch.device("cpu"))
    for row in range(0, 49, 7):
        reader.read(0, torch.ones(1, 1, 7, 1), row)
    assert torch.equal(reader.finish()[0], torch.ones(49, 1, 1))


def test_a_mask_shows_the_prefix_and_the_own_text_so_far():
    owners = torch.tensor([[0, 0, 1, 1], [0, 0, 0, -1]])
    prefix_mask = torch.tensor([[True, True], [False, True]])
    mask = build_continuation_mask(owners, prefix_mask, torch.float32)
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert (mask[1, 0] == 0).int().tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 0, 1],
    ]
    assert mask[mask != 0].isneginf().all()
    last = build_continuation_mask(owners, prefix_mask, torch.float32, rows=2)
    assert last.equal(mask[:, :, 2:])


@pytest.mark.parametrize("token_merge", ["mean", "max"])
def test_chunks_change_nothing_of_a_reader(vlm, noise, token_merge, monkeypatch):
    monkeypatch.setattr(vlm, "token_merge", token_merge)
    prefix = vlm.prefill(noise(120, 200))
    whole = vlm.attend(prefix, [*PHRASES, CAPTION])
    monkeypatch.setattr(attention, "MAX_SCORES", 3 * vlm.num_heads * len(prefix))
    parts = vlm.attend(prefix, [*PHRASES, CAPTION])
    assert relative_difference(parts.maps, whole.maps) < 1e-5
    for got, expected in zip(parts.text_features, whole.text_features):
        assert relative_difference(got, expected) < 1e-5


def test_a_long_text_on_a_large_image_holds_no_matrix_of_both(data_dir):
    family = "qwen2_5_vl"
    model = build_small_model(data_dir, family, num_hidden_layers=2, max_position_embeddings=2**14)
    vlm = FrozenQwen.from_model(model, load_processor(data_dir, family))
    vlm.model.config.vision_config.fullatt_block_indexes = []  # windows alone: quicker
    vlm.model.model.visual.fullatt_block_indexes = []
    prefix = vlm.prefill(np.random.default_rng(0).integers(0, 255, (2240, 2800, 3), np.uint8))
    words = ["dog", "lamp", "ball", "tree"] * 150
    text = " ".join(words)
    with ShapeRecorder() as recorder:
        seen = vlm.attend(prefix, [Continuation(text, spans=[(0, 8), (0, len(text))])])
    rows = len(seen.input_ids[0])
    assert rows >= 500 and len(prefix) > 8000
    scores = vlm.num_heads * rows * (len(prefix) + rows)
    assert scores > attention.MAX_SCORES
    assert max(map(math.prod, recorder.shapes)) <= attention.MAX_SCORES
    assert seen.maps.isfinite().all() and seen.maps.amax() > 0


DECODERS = {
    "windows and a soft cap": ("gemma2", {"sliding_window": 6, "attn_logit_softcapping": 3.0}),
    "chunks": (
        "llama4_text",
        {"attention_chunk_size": 7, "layer_types": ["chunked_attention", "full_attention"]},
    ),
    "windows alone": (
        "gemma3_text",
        {"sliding_window": 5, "layer_types": ["sliding_attention"] * 2},
    ),
    "windows of Qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
}


@pytest.mark.parametrize("kind, changes", DECODERS.values(), ids=DECODERS.keys())
def test_kinds_of_layers_see_what_one_eager_pass_shows_them(kind, changes):
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, **sizes, pad_token_id=0, initializer_range=0.3, **changes)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    prefix = torch.randint(1, 50, (2, 17))
    prefix_mask = torch.ones(2, 17, dtype=torch.bool)
    prefix_mask[1, :4] = False  # padded on the left
    phrases = [torch.randint(1, 50, (length,)) for length in (3, 9, 2)]
    owners = torch.arange(3).repeat_interleave(torch.tensor([3, 9, 2])).expand(2, -1)
    starts = prefix_mask.sum(1, keepdim=True)
    positions = starts + torch.cat([torch.arange(len(phrase)) for phrase in phrases])
    cache = DynamicCache()
    with torch.no_grad():
        places = prefix_mask.cumsum(1).sub(1).clamp(min=0)
        model(prefix, attention_mask=prefix_mask, position_ids=places, past_key_values=cache)
        model.config._attn_implementation = attention.ROW_ATTENTION
        full = build_continuation_mask(owners, prefix_mask, torch.float32)
        spans = [[(0, 3), (3, 12), (12, 14)]] * 2
        columns = [slice(0, 17), slice(4, 17)]
        reader = RowReader(spans, columns, 14, [0, 1], 4, "mean", torch.device("cpu"))
        model(
            torch.cat(phrases).expand(2, -1),
            attention_mask=build_layer_masks(full, config),
            position_ids=positions,
            past_key_values=cache,
            row_reader=reader,
        )
        model.config._attn_implementation = "eager"
        for row, (maps, own) in enumerate(zip(reader.finish(), columns)):
            for index, phrase in enumerate(phrases):
                ids = torch.cat([prefix[row, own], phrase])[None]
                output = model(ids, output_attentions=True, use_cache=False)
                rows = torch.cat(output.attentions, 1)[0, :, -len(phrase) :, : -len(phrase)]
                assert relative_difference(maps[index], rows.mean(1)) < 1e-5


@pytest.mark.parametrize(
    "given, message",
    [
        ({"s_aux": torch.zeros(HEADS)}, "hands its attention s_aux, which flmm does not apply"),
        ({"bias": 1, "alibi": 2, "nothing": None}, "attention alibi, bias, which flmm does not"),
        ({"attention_mask": None}, "hands its attention no mask"),
    ],
)
def test_what_may_change_weights_is_refused(states, mask, given, message):
    layer = types.SimpleNamespace(layer_idx=0)
    with pytest.raises(ValueError, match=message):
        row_attention_forward(layer, *states, **{"attention_mask": mask} | given)
    harmless = {"dropout": 0.0, "sliding_window": 8, "is_causal": True, "s_aux": None}
    assert row_attention_forward(layer, *states, mask, **harmless)[0].isfinite().all()


def test_windows_without_layer_types_are_refused():
    class Squashed(Family):
        model_types = ("llava",)

        def layout(self, seen):
            return []

    processor = types.SimpleNamespace(image_token_id=7)
    build = functools.partial(AutoConfig.for_model, "llava", image_token_id=7)
    message = "mistral looks through a sliding window of 64 tokens, but its config does not say"
    with pytest.raises(ValueError, match=message):
        Squashed(build(text_config={"model_type": "mistral", "sliding_window": 64}), processor)
    Squashed(build(text_config={"model_type": "mistral", "sliding_window": None}), processor)
    Squashed(build(text_config={"model_type": "qwen2", "sliding_window": 64}), processor)
    with pytest.raises(ValueError, match="image token id 7, the processor 8: load both from"):
        Squashed(build(), types.SimpleNamespace(image_token_id=8))
