"""What the tiny reader is trained on: packed turns equal turns alone, cells name their object."""

import random

import numpy as np
import pytest
import torch

from flmm import load_reader
from flmm.toy.reader_data import (
    PROMPT,
    Turn,
    draw_scenes,
    encode_prefixes,
    label_cells,
    pack_turns,
    write_referring_turns,
)
from flmm.toy.reader_families import FAMILIES, find_family
from flmm.toy.reader_training import predict_turns
from flmm.toy.shapes import render_scene


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request):
    torch.manual_seed(0)
    model, processor = FAMILIES[request.param].build()
    return model.eval(), processor


@pytest.fixture(scope="module")
def batch():
    """Two pictures of one grid, and their turns."""
    scenes = max(draw_scenes(FAMILIES["qwen2_5_vl"], 12, workers=1), key=len).scenes[:2]
    rng = random.Random(4)
    turns = [[*write_referring_turns(rng, scene, 3), Turn("a ring.")] for scene in scenes]
    return [scene.image for scene in scenes], turns


def test_a_saved_reader_is_read_as_it_was_taught(tiny, tmp_path):
    """Same ids, same grid: what the training packed is what the product feeds."""
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    vlm = load_reader(tmp_path, dtype="float32")
    for seed in range(4):
        scene = render_scene(random.Random(seed))
        prefix = vlm.prefill(scene.image, PROMPT)
        assert prefix.grids[0].size == find_family(model).compute_token_grid(scene.image_size)
        taught = encode_prefixes(processor, [scene.image])["input_ids"][0]
        assert prefix.input_ids.tolist() == taught.tolist()


def test_packed_turns_read_as_if_each_were_alone_after_the_prefix(tiny, batch):
    model, processor = tiny
    images, turns = batch
    packed = pack_turns(model, processor, images, turns)
    start, stops = 0, []
    with torch.no_grad():
        logits, _ = predict_turns(model, packed)
        for image, group in zip(images, turns, strict=True):
            prefix = encode_prefixes(processor, [image])
            for turn in group:
                ids = processor.tokenizer.encode(f"{turn.text}<|im_end|>")
                whole = torch.cat([prefix["input_ids"], torch.tensor([ids])], 1)
                inputs = {**prefix, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
                if "mm_token_type_ids" in prefix:
                    is_image = (whole == model.config.image_token_id).int()
                    inputs["mm_token_type_ids"] = is_image
                theirs = model(**inputs).logits[0, -len(ids) - 1 : -1]
                assert packed.targets[start : start + len(ids)].tolist() == ids
                torch.testing.assert_close(
                    logits[start : start + len(ids)], theirs, atol=2e-5, rtol=1e-4
                )
                start += len(ids)
                stops.append(processor.tokenizer.decode(ids[len(ids) - 1 :]))
    assert start == len(packed.targets)
    assert set(stops) == {"<|im_end|>"}


def test_the_first_token_after_a_phrase_is_told_by_kind(tiny, batch):
    model, processor = tiny
    packed = pack_turns(model, processor, *batch)
    spoken = [turn for group in batch[1] for turn in group if turn.phrase]
    for (place, kind), turn in zip(packed.kinds, spoken, strict=True):
        rest = processor.tokenizer.decode(packed.targets[place:])
        assert kind == turn.kind
        assert rest.startswith(turn.text.removeprefix(turn.phrase).strip()[:2]) or rest[0] == " "


def test_loss_reaches_tower_and_language(tiny, batch):
    model, processor = tiny
    logits, layers = predict_turns(model, pack_turns(model, processor, *batch))
    assert len(layers) == model.config.get_text_config().num_hidden_layers + 1
    logits.square().mean().backward()
    learned = [item for item in model.named_parameters() if item[1].requires_grad]
    untouched = [name for name, p in learned if p.grad is None]
    model.zero_grad()
    assert [name for name in untouched if "post_layernorm" not in name] == []  # of CLIP's token


def test_cells_name_the_object_that_covers_them():
    scene = render_scene(random.Random(11))
    height, width = scene.image_size
    labels = label_cells(scene, (9, 8))
    for item in scene.objects:
        ys, xs = np.where(item.mask)
        middle = len(ys) // 2
        cell = labels[int(ys[middle] * 9 / height), int(xs[middle] * 8 / width)]
        assert (cell > 0).all() or (cell == 0).all()
    assert (labels.reshape(-1, 3).any(1) == labels.reshape(-1, 3).all(1)).all()
