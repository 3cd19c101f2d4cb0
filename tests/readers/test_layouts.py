"""Layouts: every image token once, over the pixels that it was made of."""

import copy
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from flmm.geometry import fit_to_picture, join_grid_maps, resample_area, resize_maps
from flmm.readers.families import Seen, find_family
from flmm.readers.families.llava_next import LlavaNext
from flmm.readers.families.tiles import cover_tiles
from flmm.readers.published_sizes import PUBLISHED_SIZES
from flmm.readers.stand_ins import find_stand_in
from flmm.records import Box, Grid
from tests.small_models import (
    ALL_FAMILIES,
    SMALL_FAMILIES,
    build_small_config,
    build_small_model,
    load_processor,
)

TILE = {"patch_size": 14, "image_size": 336}
CONFIGS = {
    "llava": {"vision_config": {"model_type": "clip_vision_model", **TILE}},
    "llava_next": {"vision_config": {"model_type": "clip_vision_model", **TILE}},
    "llava_onevision": {},
    "internvl": {},
    "idefics3": {"vision_config": {"patch_size": 16}, "scale_factor": 4},
}
WITHOUT_FILES = (
    *("DeepSeek-VL-1.3B", "DeepSeek-VL-7B", "Idefics3-8B", "SmolVLM2-2.2B"),
    *("Pixtral-12B", "Mistral-Small-3.1-24B", "GLM-4.1V-9B", "Fuyu-8B", "Aya-Vision-8B"),
)
ODD = np.random.default_rng(0).integers(30, 1400, (40, 2))
SIZES = [(480, 640), (640, 480), (100, 1500), (1500, 100), (37, 37), (336, 336), (1080, 1920)]
SIZES += [(int(height), int(width)) for height, width in ODD]
# How many are looked at: the rest is more of the same.
FEW_OR_ALL = [pytest.param(12, id="few"), pytest.param(None, id="all", marks=pytest.mark.heavy)]


@pytest.fixture(scope="module", params=[*CONFIGS, *WITHOUT_FILES])
def published(request, data_dir):
    """The family of a published model, from its processor, or a stand-in's, and its sizes."""
    if request.param in WITHOUT_FILES:
        values = PUBLISHED_SIZES[request.param]
        stand_in = find_stand_in(values)
        processor = stand_in.make_processor(values)
        config = stand_in.build_config(values, processor)
        return find_family(config)(config, processor)
    processor = AutoProcessor.from_pretrained(data_dir / "processors" / request.param)
    values = CONFIGS[request.param] | {"image_token_id": processor.image_token_id}
    if request.param == "llava_next":
        values["image_grid_pinpoints"] = processor.image_processor.image_grid_pinpoints
    config = AutoConfig.for_model(request.param, **values)
    return find_family(config)(config, processor)


def see(family, size):
    """What a layout is shown of a picture; no test looks at these pixels."""
    options = {**family.image_options, "do_rescale": False, "do_normalize": False}
    inputs = family.processor(
        images=[np.zeros((*size, 3), np.uint8)],
        text=[f"x {family.picture_text} y"],
        return_tensors="pt",
        **options,
    )
    columns = (inputs["input_ids"][0] == family.image_token_id).nonzero()[:, 0]
    return Seen(columns, size, inputs)


@pytest.mark.parametrize("count", FEW_OR_ALL)
def test_a_layout_takes_every_image_token_once(published, count):
    for size in SIZES[:count]:
        seen = see(published, size)
        grids = published.layout(seen)
        taken = np.concatenate([grid.columns.flatten() for grid in grids]).tolist()
        newlines = grids[0].size[0] if isinstance(published, LlavaNext) else 0
        assert len(set(taken)) == len(taken) == len(seen.columns) - newlines, size
        assert set(taken) <= set(seen.columns.tolist())
        assert len(grids) <= published.num_grids
        cells = [max(measure_cell(grid)) for grid in grids]
        assert cells == sorted(cells)  # finest first


@pytest.mark.parametrize("tiles", [(1, 1), (1, 2), (3, 1), (4, 6)])
def test_cells_of_tiles_lie_within_half_of_what_is_unseen(tiles):
    """27 patches of 14 px are cut of a tile's 384 px."""
    left, top, right, bottom = cover_tiles(tiles, 384, 378)
    for count, start, end in ((tiles[0], top, bottom), (tiles[1], left, right)):
        placed = torch.linspace(start, end, 27 * count + 1, dtype=torch.float64)
        for tile in range(count):
            true = 384 * tile + 14 * torch.arange(28)
            wrong = (placed[27 * tile : 27 * tile + 28] - true).abs().max()
            assert wrong <= (3 + 1e-9 if count > 1 else 1e-9)


class _Stop(Exception):
    """The image tokens are known."""


@torch.no_grad()
def embed(model, inputs):
    """``[S, D]``: what the language model is fed."""
    fed = {}

    def keep(_, args, kwargs):
        fed.update(kwargs)
        raise _Stop

    hook = model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model.model(**inputs)
    except _Stop:
        return fed["inputs_embeds"][0]
    finally:
        hook.remove()


class Change(NamedTuple):
    """A rectangle of a picture was changed; ``moved`` says of which columns the token did."""

    seen: Seen
    box: Box
    moved: Tensor
    smear: float


@pytest.fixture(scope="module", params=FEW_OR_ALL)
def count(request):
    return request.param or 40


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def changes(request, data_dir, count):
    """Of a family: one change of each of ``count`` pictures of odd sizes."""
    processor = load_processor(data_dir, request.param)
    model = build_small_model(data_dir, request.param)
    family = find_family(model.config)(model.config, processor)
    with torch.no_grad():
        SMALL_FAMILIES[request.param].silence(model)
    random = np.random.default_rng(1)
    found = []
    for _ in range(count):
        height, width = (int(side) for side in random.integers(60, 230, 2))
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
        y, x = random.integers(0, height - 30), random.integers(0, width - 30)
        y1, x1 = y + random.integers(12, 30), x + random.integers(12, 30)
        changed = picture.copy()
        changed[y:y1, x:x1] = 255 - changed[y:y1, x:x1]
        before, after = (
            processor(
                images=[item],
                text=[family.picture_text],
                return_tensors="pt",
                **family.image_options,
            )
            for item in (picture, changed)
        )
        embeddings = embed(model, before)
        distance = (embed(model, after) - embeddings).norm(dim=1)
        columns = (before["input_ids"][0] == family.image_token_id).nonzero()[:, 0]
        moved = distance > 1e-4 * embeddings[columns].norm(dim=1).mean()
        seen = Seen(columns, (height, width), before)
        found.append(Change(seen, (x, y, x1, y1), moved, SMALL_FAMILIES[request.param].smear))
    return family, found


def measure_cell(grid):
    """(width, height) of a cell in pixels of the picture."""
    (height, width), (left, top, right, bottom) = grid.size, grid.box
    return (right - left) / width, (bottom - top) / height


def touch(grid, box, margin):
    """Bool ``[h, w]``: which cells reach into a box that is so much larger."""
    (height, width), (left, top, right, bottom) = grid.size, grid.box
    xs, ys = torch.linspace(left, right, width + 1), torch.linspace(top, bottom, height + 1)
    columns = (xs[1:] > box[0] - margin) & (xs[:-1] < box[2] + margin)
    rows = (ys[1:] > box[1] - margin) & (ys[:-1] < box[3] + margin)
    return rows[:, None] & columns


def fits(grids, change):
    """Whether exactly the tokens moved whose cells the layout puts on the change.

    Resizing mixes pixels: cells within its reach of the border may do either.
    """
    for grid in grids:
        moved = change.moved[grid.columns]
        reach = 3 + change.smear * max(measure_cell(grid))
        inside, around = touch(grid, change.box, -min(reach, 3.5)), touch(grid, change.box, reach)
        if (inside & ~moved).any() or (moved & ~around).any():
            return False
    return True


def test_a_changed_rectangle_moves_the_tokens_of_its_cells_alone(changes, count):
    family, found = changes
    wrong = [item.seen.size for item in found if not fits(family.layout(item.seen), item)]
    assert len(found) == count and not wrong


def shift(grid, cells):
    step = cells * measure_cell(grid)[0]
    left, top, right, bottom = grid.box
    return Grid(grid.columns, (left + step, top, right + step, bottom))


def ignore_padding(grid):
    left, top, right, bottom = grid.box
    if min(left, top) > -max(measure_cell(grid)):
        return grid
    return Grid(grid.columns, (max(left, 0), max(top, 0), right + min(left, 0), bottom))


def ignore_tiles(grid):
    return Grid(grid.columns.flatten().sort()[0].view(grid.size), grid.box)


WRONG = {
    "transposed": lambda grid: Grid(grid.columns.T, grid.box),
    "mirrored": lambda grid: Grid(grid.columns.flip(1), grid.box),
    "half a cell to the right": lambda grid: shift(grid, 0.5),
    "without its tiles": ignore_tiles,
    "without its padding": ignore_padding,
}


@pytest.mark.parametrize("make_wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_layout_is_found(changes, make_wrong):
    family, found = changes
    wrong = [(make_wrong(grid), grid, item) for item in found for grid in family.layout(item.seen)]
    wrong = [
        (made, item)
        for made, grid, item in wrong
        if made.box != grid.box or not made.columns.equal(grid.columns)
    ]
    # Not every layout has tiles, or padding.
    assert not wrong or not all(fits([made], item) for made, item in wrong)


def test_a_picture_that_is_hardly_a_line_has_its_thumbnail_alone(data_dir):
    """Unpadding leaves no row of the tiles."""
    processor = load_processor(data_dir, "llava_next")
    config = build_small_config(data_dir, "llava_next")
    family = find_family(config)(config, processor)
    (grid,) = family.layout(see(family, (2, 900)))
    assert grid.size == (4, 4) and grid.box == (0, 0, 900, 2)


def test_a_picture_that_is_not_split_has_its_thumbnail_alone(data_dir):
    config = build_small_config(data_dir, "idefics3")
    family = find_family(config)(config, load_processor(data_dir, "idefics3"))
    family.image_options = {"do_image_splitting": False}
    (grid,) = family.layout(see(family, (90, 160)))
    assert grid.size == (2, 2) and grid.box == (0, 0, 160, 90)


@pytest.mark.parametrize(
    "name, change, message",
    [
        (
            "llava_padded",
            lambda config, _: setattr(config.vision_config, "model_type", "pixtral"),
            r"has patch size and merge size \(14, 1\), the processor \(14, None\)",
        ),
        (
            "pixtral",
            lambda config, _: setattr(config.vision_config, "patch_size", 14),
            r"has patch size and merge size \(14, 1\), the processor \(16, 1\)",
        ),
        (
            "pixtral",
            lambda config, _: setattr(config.text_config, "sliding_window", 4096),
            "mistral looks through a sliding window of 4096 tokens, but its config does not say",
        ),
        (
            "mistral3",
            lambda config, _: setattr(config, "spatial_merge_size", 1),
            r"has patch size and merge size \(14, 1\), the processor \(14, 2\)",
        ),
        (
            "mistral3",
            lambda config, _: setattr(config, "image_token_id", 3),
            "has image token id 3, the processor 259: load both from the same folder",
        ),
        (
            "fuyu",
            lambda config, _: setattr(config, "patch_size", 30),
            "has patch size 30, the processor 10 x 10: load both from the same folder",
        ),
        (
            "glm4v",
            lambda config, _: setattr(config.vision_config, "spatial_merge_size", 4),
            "has merge size 4, the processor 2: load both from the same folder",
        ),
        (
            "qwen3_5_moe",
            lambda config, _: setattr(config.vision_config, "patch_size", 14),
            "has patch size 14, the processor 16: load both from the same folder",
        ),
        (
            "glm4v_moe",
            lambda config, _: setattr(config.vision_config, "patch_size", 16),
            "has patch size 16, the processor 14: load both from the same folder",
        ),
        (
            "gemma3",
            lambda config, _: setattr(config, "image_token_id", 3),
            r"has image token id 3, the processor 270: load both from the same folder",
        ),
        (
            "gemma3",
            lambda config, _: setattr(config, "mm_tokens_per_image", 64),
            "makes 64 tokens of a picture, the processor writes 16: load both",
        ),
        (
            "gemma3",
            lambda _, processor: setattr(
                *(processor, "images_kwargs"),
                processor.images_kwargs
                | {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 9},
            ),
            "adds 2 crops to the picture, which flmm does not read: leave do_pan_and_scan",
        ),
        (
            "gemma4",
            lambda config, _: setattr(config.vision_config, "pooling_kernel_size", 2),
            "has pooling_kernel_size 2, the processor 3: load both from the same folder",
        ),
        (
            "paligemma2",
            lambda config, _: setattr(config.vision_config, "image_size", 112),
            "makes 8 x 8 tokens of a picture, the processor writes 16: load both",
        ),
        (
            "llava_next",
            lambda config, _: setattr(config, "image_grid_pinpoints", [[56, 112]]),
            r"has image_grid_pinpoints \[\[56, 112\]\], the processor \[\[56, 112\], \[112, 56\]",
        ),
        (
            "llava_next",
            lambda config, _: setattr(config.vision_config, "image_size", 70),
            r"has tiles of \(px\) 70, the processor 56: load both",
        ),
        (
            "llava_next",
            lambda config, _: setattr(config, "vision_feature_select_strategy", "full"),
            "has vision_feature_select_strategy full, the processor default: load both",
        ),
        (
            "llava_onevision",
            lambda config, _: setattr(config, "vision_aspect_ratio", "anyres_max_4"),
            "has vision_aspect_ratio anyres_max_4, the processor anyres_max_9: load both",
        ),
        (
            "llava_onevision",
            lambda _, processor: setattr(processor, "num_image_tokens", 729),
            "has tokens per tile 16, the processor 729: load both",
        ),
        (
            "deepseek_vl",
            lambda _, processor: setattr(processor, "num_image_tokens", 576),
            "makes 4 x 4 tokens of a picture, the processor writes 576: load both",
        ),
        (
            "deepseek_vl_hybrid",
            lambda config, _: setattr(config.high_res_vision_config, "image_size", 1024),
            r"squares of 1024 px \(high_res_vision_config\), the processor makes 128 px: load both",
        ),
        (
            "internvl",
            lambda config, _: setattr(config, "downsample_ratio", 1.0),
            "makes 4 x 4 tokens of a tile, the processor writes 4: load both",
        ),
        (
            "idefics3",
            lambda config, _: setattr(config, "scale_factor", 1),
            "makes 4 x 4 tokens of a tile, the processor writes 4: load both",
        ),
        (
            "llava_cropped",
            lambda _, processor: setattr(processor, "vision_feature_select_strategy", "full"),
            "100 x 50 px has 17 image tokens, its layout needs 16: load model and processor",
        ),
    ],
)
def test_what_is_not_read_exactly_is_refused(data_dir, name, change, message):
    config = build_small_config(data_dir, name)
    processor = copy.copy(load_processor(data_dir, name))
    change(config, processor)
    with pytest.raises(ValueError, match=message):
        reader = find_family(config)(config, processor)
        reader.layout(see(reader, (50, 100)))


def test_a_picture_of_a_single_token_is_refused_where_transformers_fails(data_dir):
    processor = load_processor(data_dir, "mistral3")
    config = build_small_config(data_dir, "mistral3")
    family = find_family(config)(config, processor)
    with pytest.raises(ValueError, match=r"28 x 20 px is a single image token, .* more than 28 px"):
        family.layout(see(family, (20, 28)))
    assert family.layout(see(family, (20, 29)))[0].size == (1, 2)


def test_a_model_of_no_family_is_refused():
    with pytest.raises(ValueError, match=r"'blip-2' is not supported: give one of .*llava_next"):
        find_family(AutoConfig.for_model("blip-2"))


def draw_ellipses(random, height, width):
    """Bool ``[3, H, W]``: true masks, large enough to be seen through cells."""
    ys, xs = np.ogrid[:height, :width]
    masks = []
    for _ in range(3):
        (y, x), (a, b) = random.uniform(0.2, 0.8, 2), random.uniform(0.25, 0.5, 2)
        masks.append(((ys / height - y) / a) ** 2 + ((xs / width - x) / b) ** 2 < 1)
    return torch.from_numpy(np.stack(masks))


def measure_distance(mask):
    """Pixels from each pixel to the border of a mask, on either side."""
    sides = (mask.numpy(), ~mask.numpy())
    return sum(cv2.distanceTransform(np.uint8(side), cv2.DIST_L2, 5) for side in sides)


@pytest.mark.parametrize("name", ALL_FAMILIES)
def test_a_mask_seen_through_a_layout_comes_back_within_a_cell(data_dir, name):
    """A perfect head: each grid shows how much of a cell is covered, the finest is the answer."""
    processor = load_processor(data_dir, name)
    config = build_small_config(data_dir, name)
    family = find_family(config)(config, processor)
    random = np.random.default_rng(2)
    for height, width in random.integers(61, 240, (10, 2)).tolist():
        masks = draw_ellipses(random, height, width)
        seen = see(family, (height, width))
        grids = family.layout(seen)
        maps = [
            resample_area(masks[:, None].float(), seen.whole, grid.box, grid.size) for grid in grids
        ]
        joined = join_grid_maps(maps, grids, family.num_grids)
        assert joined.shape == (3, family.num_grids, *grids[0].size)
        for channel, grid in zip(joined.unbind(1), (grids[0], grids[-1])):
            logits = fit_to_picture(channel - 0.5, grids[0].box, (height, width), -0.5)
            found = resize_maps(logits, (height, width)) > 0
            reach = sum(measure_cell(grids[0])) / 2 + (grid is grids[-1]) * max(measure_cell(grid))
            visible = torch.ones(height, width, dtype=torch.bool)
            for left, top, right, bottom in (grids[0].box, grid.box):
                seen_box = torch.zeros_like(visible)
                seen_box[max(round(top), 0) : round(bottom), max(round(left), 0) : round(right)] = 1
                visible &= seen_box
            for mask, back in zip(masks & visible, found):
                distance = measure_distance(mask)
                assert distance[back != mask].max(initial=0) <= reach
