"""The training forward of the tiny reader equals transformers' own."""

import random

import numpy as np
import pytest
import torch

from flmm.toy.architecture import build_config, build_model, build_processor, build_tokenizer
from flmm.toy.fast_forward import encode_images, read_tokens
from flmm.toy.packing import PatchedPixels, TurnPacker
from flmm.toy.reader_training import compute_language_loss
from flmm.toy.scene_pool import label_cells, resize_for_reader
from flmm.toy.shapes import render_scene
from flmm.toy.text import (
    list_vocabulary_corpus,
    write_caption,
    write_referring_turns,
)


@pytest.fixture(scope="module")
def tiny():
    tokenizer = build_tokenizer(list_vocabulary_corpus())
    return build_model(build_config(tokenizer), 0).eval(), build_processor(tokenizer)


@pytest.fixture(scope="module")
def batch(tiny):
    """Two scenes of one grid, resized, with their turns packed."""
    rng, by_grid = random.Random(4), {}
    while True:
        scene = render_scene(rng)
        pixels = resize_for_reader(scene.image)
        group = by_grid.setdefault(pixels.shape, [])
        group.append((scene, pixels))
        if len(group) == 2:
            break
    grid = pixels.shape[0] // 28, pixels.shape[1] // 28
    turns = [[*write_referring_turns(rng, s, 4), write_caption(rng, s)] for s, _ in group]
    packer = TurnPacker(tiny[1].tokenizer)
    return np.stack([p for _, p in group]), grid, turns, packer


def test_patches_are_the_processors(tiny, batch):
    pixels, grid, _, _ = batch
    theirs = tiny[1].image_processor(images=list(pixels), do_resize=False, return_tensors="pt")
    frames = theirs["pixel_values"].view(2, grid[0] * grid[1] * 4, 3, 2, 196)
    ours = PatchedPixels(tiny[1])(pixels)
    torch.testing.assert_close(ours, frames[:, :, :, 0].flatten(2), atol=1e-5, rtol=0)


def test_resize_is_the_processors(tiny):
    image = render_scene(random.Random(8)).image
    processor = tiny[1].image_processor
    theirs = processor(images=[image], return_tensors="pt")["pixel_values"]
    ours = PatchedPixels(tiny[1])(resize_for_reader(image)[None])[0]
    theirs = theirs.view(-1, 3, 2, 196)[:, :, 0].flatten(1)
    torch.testing.assert_close(ours, theirs, atol=2 / 255 / 0.26, rtol=0)


def test_vision_tower_equals_the_stock_forward(tiny, batch):
    model, processor = tiny
    pixels, grid, _, _ = batch
    stock = processor.image_processor(images=list(pixels), do_resize=False, return_tensors="pt")
    with torch.no_grad():
        theirs = model.model.visual(stock["pixel_values"], grid_thw=stock["image_grid_thw"])
        patches = PatchedPixels(processor)(pixels)
        ours = encode_images(model.model.visual, patches, (grid[0] * 2, grid[1] * 2))
    torch.testing.assert_close(ours.flatten(0, 1), theirs.pooler_output, atol=1e-5, rtol=1e-5)


def test_language_layers_equal_one_stock_pass_per_turn(tiny, batch):
    """Packed, isolated turns read as if each were alone after the prefix."""
    model, processor = tiny
    pixels, grid, turns, packer = batch
    packed = packer.pack(turns, grid)
    patches = PatchedPixels(processor)(pixels)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        states = encode_images(model.model.visual, patches, (grid[0] * 2, grid[1] * 2))
        embeddings = model.get_input_embeddings()(packed.input_ids)
        is_image = (packed.input_ids == packer.image_pad)[..., None]
        embeddings = embeddings.masked_scatter(is_image, states)
        hidden, _ = read_tokens(
            model.model.language_model, embeddings, packed.position_ids, packed.visible
        )
        logits = model.lm_head(hidden.flatten(0, 1)[packed.predictors])
        stock = processor.image_processor(images=list(pixels), do_resize=False, return_tensors="pt")
        frames = stock["pixel_values"].chunk(2)
        start = 0
        for b, group in enumerate(turns):
            for turn in group:
                ids = [*packer.encode(turn.text), packer.end]
                prefix = packer.before + [packer.image_pad] * (grid[0] * grid[1]) + packer.after
                whole = torch.tensor([prefix + ids])
                theirs = model(
                    input_ids=whole,
                    pixel_values=frames[b],
                    image_grid_thw=stock["image_grid_thw"][b : b + 1],
                    mm_token_type_ids=(whole == packer.image_pad).int(),
                    attention_mask=torch.ones_like(whole),
                ).logits[0, len(prefix) - 1 : -1]
                ours = logits[start : start + len(ids)]
                assert packed.targets[start : start + len(ids)].tolist() == ids
                torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
                start += len(ids)
    assert start == len(packed.targets)


def test_loss_reaches_tower_and_language(tiny, batch):
    model, processor = tiny
    pixels, grid, turns, packer = batch
    patches = PatchedPixels(processor)(pixels)
    packed = packer.pack(turns, grid)
    loss, _, _ = compute_language_loss(model, packed, patches, (grid[0] * 2, grid[1] * 2))
    loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    model.zero_grad()
    assert untouched == []


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
