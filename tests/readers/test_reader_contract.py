"""What readers owe whatever the family; what families differ in is in test_family_contract."""

import copy
import math

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flmm.readers import attention, base
from flmm.readers.families.base import DEFAULT_PROMPT
from flmm.records import Continuation
from tests.readers.conftest import FEW

FAMILIES = FEW
PHRASES = [
    "person",
    "the tall man in the white shirt and blue jeans who stands left of the old lamp post, waving",
    "左边的红色杯子",
    "x",
]
CAPTION = Continuation(
    "A dog's toy lies by the red ball, 左边的红色杯子旁边.",
    spans=[(0, 11), (23, 31), (34, 41), (2, 5), (0, 44)],
)


def relative_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


class ShapeRecorder(TorchDispatchMode):
    """Remembers every operation and the shape of every tensor it makes."""

    def __init__(self):
        super().__init__()
        self.shapes = set()
        self.operations = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.operations.add(func.overloadpacket)
        self.shapes |= {
            tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)
        }
        return output


class TestReaderContract:
    def test_max_merge_keeps_the_greatest_weight_of_a_phrase(self, vlm, eager, noise, monkeypatch):
        image = noise(100, 100)
        monkeypatch.setattr(vlm, "token_merge", "max")
        prefix = vlm.prefill(image)
        got = vlm.attend(prefix, PHRASES[1:2]).maps[0]
        _, attentions, _ = eager.read(image, DEFAULT_PROMPT, PHRASES[1])
        expected = attentions[:, len(prefix) :].amax(1)[:, prefix.grids[0].columns]
        assert relative_difference(got, expected) < 1e-5

    def test_last_merge_is_the_mean_over_the_last_words_tokens(
        self, vlm, eager, noise, monkeypatch
    ):
        image = noise(100, 100)
        whole = vlm.attend(vlm.prefill(image), [*PHRASES, CAPTION])
        monkeypatch.setattr(vlm, "token_merge", "last")
        prefix = vlm.prefill(image)
        seen = vlm.attend(prefix, [*PHRASES, CAPTION])
        for got, expected in zip(seen.text_features, whole.text_features):
            assert got.equal(expected)  # of all tokens, as ever
        words = [(0, 6), (85, 91), (6, 7), (0, 1)]  # the last Chinese character alone
        words = [(text, *word) for text, word in zip(PHRASES, words)]
        # Of each span of the caption; a full stop is no word.
        words += [(CAPTION.text, *word) for word in [(8, 11), (27, 31), (40, 41), (2, 5), (42, 43)]]
        read = {text: eager.read(image, DEFAULT_PROMPT, text)[1] for text, _, _ in words}
        for maps, (text, start, end) in zip(seen.maps, words, strict=True):
            offsets = vlm.plain_text.encode_plain(text)[1]
            rows = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
            columns = read[text][:, [len(prefix) + row for row in rows]].mean(1)
            assert relative_difference(maps, columns[:, prefix.grids[0].columns]) < 1e-5

    def test_a_short_reading_lets_the_other_passes_alone(self, vlm, noise, monkeypatch):
        image = noise(100, 100)
        whole = vlm.prefill(image)
        expected = vlm.attend(whole, PHRASES)
        layer = vlm.model.get_decoder().layers[0]
        hooks = len(layer._forward_hooks)
        within = []

        def slip_in(*_):  # as a forgotten stream does that is closed in the middle of a pass
            if not within:
                within.append(None)
                within[0] = vlm.attend(whole, PHRASES)

        with monkeypatch.context() as patch:
            patch.setattr(vlm, "max_rows", 5)  # several passes
            hook = layer.register_forward_hook(slip_in)
            short = vlm.prefill(image, layers=2)
            hook.remove()
            seen = vlm.attend(short, PHRASES)
            assert relative_difference(within[0].maps, expected.maps) < 1e-5
        assert relative_difference(seen.maps, expected.keep_layers(2, vlm.num_heads).maps) < 1e-5

        def fail(*_):
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(attention.RowReader, "read", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                vlm.attend(short, PHRASES)
        assert len(layer._forward_hooks) == hooks
        assert vlm.attend(whole, PHRASES).maps.equal(expected.maps)
        said = []
        monkeypatch.setattr(base, "print_log", lambda message, logger: said.append(message))
        assert vlm.complete(short) is vlm.complete(short) and vlm.complete(whole) is whole
        message = "the picture was read with 2 of 4 layers, and is read again with all of them"
        assert said == [f"{message} for an answer"]
        for layers in (0, 5):
            with pytest.raises(ValueError, match=f"layers is {layers}, and the reader has 4: give"):
                vlm.prefill(image, layers=layers)

    def test_packs_and_batches_change_nothing(self, vlm, noise, monkeypatch):
        images = [noise(100, 160), noise(200, 60)]
        one_by_one = [vlm.attend(vlm.prefill(image), PHRASES) for image in images]
        monkeypatch.setattr(vlm, "max_rows", 5)
        batch = vlm.attend(vlm.prefill(images), [PHRASES, PHRASES])
        for seen, expected in zip(batch, one_by_one):
            assert relative_difference(seen.maps, expected.maps) < 1e-5
            assert [f.shape for f in seen.text_features] == [
                f.shape for f in expected.text_features
            ]
            assert all(a.equal(b) for a, b in zip(seen.input_ids, expected.input_ids))

    def test_an_encoded_image_is_read_as_the_picture(self, vlm, noise):
        image = noise(130, 90)
        encoded = vlm.image_processor.encode(image)
        got = vlm.attend(vlm.prefill(encoded), PHRASES[0])
        assert got.maps.equal(vlm.attend(vlm.prefill(image), PHRASES[0]).maps)

    def test_no_tensor_is_prefix_by_prefix(self, vlm, noise):
        image_input = vlm.image_processor.encode(noise(900, 900))
        with ShapeRecorder() as reading:
            prefix = vlm.prefill(image_input)
        length = patches = len(prefix)
        if "image_grid_thw" in image_input.inputs:  # other towers see tiles of one size
            patches = int(image_input.inputs["image_grid_thw"].prod())
        assert length > 100
        long_sides = [sum(side in (length, patches) for side in shape) for shape in reading.shapes]
        assert max(long_sides) == 1
        with ShapeRecorder() as attending:
            seen = vlm.attend(prefix, PHRASES)
        rows = sum(map(len, seen.input_ids))
        most = max(map(math.prod, attending.shapes))
        assert most <= vlm.num_heads * rows * (length + rows)
        assert vlm.text_config.vocab_size not in {s for shape in reading.shapes for s in shape}
        # On a GPU either would wait for the device.
        waits = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero}
        assert torch.ops.aten.mm in attending.operations
        assert not waits & attending.operations

    def test_the_prefix_serves_again_also_after_an_error(self, vlm, noise, monkeypatch):
        prefix = vlm.prefill(noise(100, 100))
        first = vlm.attend(prefix, PHRASES).maps
        implementation = vlm.text_config._attn_implementation

        def fail_in_the_third_layer(self, layer_index, weights, first_row=0):
            if layer_index == 2:
                raise RuntimeError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(attention.RowReader, "read", fail_in_the_third_layer)
            with pytest.raises(RuntimeError, match="out of memory"):
                vlm.attend(prefix, PHRASES)
        assert vlm.text_config._attn_implementation == implementation
        assert {layer.get_seq_length() for layer in prefix.cache.layers} == {len(prefix)}
        assert vlm.attend(prefix, PHRASES).maps.equal(first)

    def test_generate_stops_at_the_end_of_the_turn(self, vlm, noise, monkeypatch):
        prefix = vlm.prefill(noise(60, 60))
        longer = vlm.generate(prefix, max_new_tokens=3)
        third = vlm.tokenizer(longer, add_special_tokens=False)["input_ids"][-1]
        monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", third)
        assert len(vlm.generate(prefix, max_new_tokens=3)) < len(longer)

    def test_maps_do_not_depend_on_autocast_or_inference_mode(self, vlm, noise):
        image = noise(80, 80)
        expected = vlm.attend(vlm.prefill(image), PHRASES).maps
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert vlm.attend(vlm.prefill(image), PHRASES).maps.equal(expected)
        with torch.inference_mode():
            prefix = vlm.prefill(image)
        assert vlm.attend(prefix, PHRASES).maps.equal(expected)


class TestFrozen:
    @pytest.fixture()
    def parent(self, vlm):
        head = torch.nn.Conv2d(vlm.num_maps, 1, 1)
        return torch.nn.ModuleDict({"vlm": vlm, "head": head})

    def test_no_gradient_reaches_the_reader(self, parent, vlm, noise):
        parent.requires_grad_(True).train()
        seen = vlm.attend(vlm.prefill(noise(60, 80)), PHRASES)
        (parent["head"](seen.maps).sum() + seen.text_features[0].sum()).backward()
        assert parent["head"].weight.grad is not None
        assert not any(w.requires_grad or w.grad is not None for w in vlm.model.parameters())
        assert not list(vlm.parameters())

    def test_train_of_the_parent_does_not_touch_it(self, parent, vlm):
        parent.train()
        assert parent["head"].training and not vlm.training
        assert not any(module.training for module in vlm.model.modules())

    def test_its_weights_are_in_no_state_dict(self, parent, vlm):
        expected = {"head.weight", "head.bias"}
        assert set(parent.state_dict()) == set(get_state_dict(parent)) == expected
        assert not vlm.state_dict()
        parent.load_state_dict(parent.state_dict(), strict=True)
        load_state_dict(parent, parent.state_dict(), strict=True)

    def test_a_copy_shares_its_weights(self, parent, vlm):
        assert copy.deepcopy(parent)["vlm"].model is vlm.model

    def test_it_moves_with_its_parent(self, parent, vlm):
        parent.double()
        assert vlm.dtype == torch.float64
        parent.float()
        assert vlm.dtype == torch.float32


def test_nothing_writes_into_a_prefix(vlm, noise):
    prefix = vlm.prefill(noise(60, 60))
    held = [(layer.keys, layer.keys.clone()) for layer in prefix.cache.layers]
    vlm.generate(prefix, max_new_tokens=3)
    vlm.answer(prefix, ["What is this?", "Is there a dog?"], max_new_tokens=3)
    dialogue = vlm.converse(prefix)
    dialogue.ask("What is this?")
    list(dialogue.write(3))
    assert [layer.keys is keys for layer, (keys, _) in zip(prefix.cache.layers, held)] == [
        True
    ] * len(held)
    assert all(keys.equal(copied) for keys, copied in held)
