"""SAM 2.1 and SAM-HQ as refiners: the numbers of transformers' own processors and models."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessor,
)

from flmm.masks import Sam2Refiner, SamHQRefiner
from tests.masks.sam_configs import SAM2, SAM_HQ

SIZES = [(640, 425), (480, 640), (75, 118), (300, 41), (128, 128)]
KINDS = pytest.mark.parametrize("kind", [Sam2Refiner, SamHQRefiner])
PHOTOGRAPHS = ("000000000785.jpg", "000000039769.png", "000000040083.jpg")


def build(kind, **settings):
    """Random weights, scaled so that prompts make a difference."""
    torch.manual_seed(0)
    refiner = kind(random_init=SAM2 if kind is Sam2Refiner else SAM_HQ, **settings).eval()
    for part in (refiner.sam.prompt_encoder, refiner.sam.mask_decoder):
        for name, weight in part.named_parameters():
            if "embed.weight" in name or "token" in name:
                nn.init.normal_(weight, std=0.3)
            elif weight.ndim > 1:
                scale = 0.3 if "transformer" in name else 1.0
                nn.init.normal_(weight, std=scale * weight[0].numel() ** -0.5)
    for positions in (
        refiner.sam.shared_image_embedding,
        refiner.sam.prompt_encoder.shared_embedding,
    ):
        nn.init.normal_(positions.positional_embedding)  # SAM-HQ's random ones are far too fine
    return refiner


def build_processor(kind):
    square = {"height": 128, "width": 128}
    if kind is Sam2Refiner:
        return Sam2Processor(Sam2ImageProcessor(size=square))
    return SamHQProcessor(SamImageProcessor(size={"longest_edge": 128}, pad_size=square))


def draw_image(size=(75, 118), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def draw_coarse(phrases=4, size=(23, 31)):
    generator = torch.Generator().manual_seed(0)
    rough = 4 * torch.randn(phrases, 1, 4, 5, generator=generator)
    return nn.functional.interpolate(rough, size, mode="bicubic")[:, 0]


def draw_words(lengths=(3, 1, 3, 7)):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 32, generator=generator) for length in lengths]


def build_prompts(refiner, coarse, size, input_size):
    """Per phrase its box in original pixels and its mask prompt, by another way than ours."""
    original = nn.functional.interpolate(coarse[None].sigmoid(), size, mode="bilinear")[0] > 0.5
    boxes, masks = [], []
    for logits, mask in zip(coarse, original):
        rows, columns = torch.where(mask)
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        boxes.append([float(edge) for edge in edges])
        framed = logits[None, None]
        if not refiner.fills_frame:
            inside = nn.functional.interpolate(framed, input_size, mode="bilinear")
            missing = (0, 128 - input_size[1], 0, 128 - input_size[0])
            framed = nn.functional.pad(inside, missing, value=min(-1.0, logits.min().item()))
        masks.append(nn.functional.interpolate(framed, (32, 32), mode="bilinear"))
    return boxes, masks, original


def ask_transformers(refiner, image, box, mask, multimask):
    """Logits ``[k, H, W]`` of the model, asked as its documentation says."""
    processor = build_processor(type(refiner))
    boxes = None if box is None else [[box]]
    inputs = processor(images=Image.fromarray(image), input_boxes=boxes, return_tensors="pt")
    sizes = [inputs.pop("original_sizes")]
    if "reshaped_input_sizes" in inputs:
        sizes.append(inputs.pop("reshaped_input_sizes"))
    if "input_boxes" in inputs:
        inputs["input_boxes"] = inputs["input_boxes"].float()
    outputs = refiner.sam(**inputs, input_masks=mask, multimask_output=multimask)
    return processor.post_process_masks(outputs.pred_masks, *sizes, binarize=False)[0][0]


@torch.no_grad()
@KINDS
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_phrases_together_equal_transformers_one_at_a_time(kind, size, multimask):
    refiner = build(kind, use_text=False, multimask_output=multimask)
    image, coarse = draw_image(size), draw_coarse()
    (encoding,) = refiner.encode([image])
    together = refiner.refine(encoding, coarse)
    assert together.shape == (4, *size) and together.dtype == torch.float32
    assert (together - together.roll(1, 0)).abs().amax((1, 2)).min() > 0.01, "phrases differ"
    other = refiner.refine(refiner.encode([image[::-1]])[0], coarse)
    assert (together - other).abs().amax((1, 2)).min() > 0.01, "the picture counts"
    boxes, masks, original = build_prompts(refiner, coarse, size, encoding.input_size)
    for phrase in range(4):
        candidates = ask_transformers(refiner, image, boxes[phrase], masks[phrase], multimask)
        found = candidates > 0
        unions = (found | original[phrase]).sum((1, 2)).clamp(min=1)
        best = ((found & original[phrase]).sum((1, 2)) / unions).argmax()
        scale = candidates.abs().max()
        assert (together[phrase] - candidates[best]).abs().max() < 1e-5 * max(1, scale)


@torch.no_grad()
@KINDS
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_equal_transformers(kind, name, data_dir):
    """Boxes alone and masks alone, on real photographs of their own sizes."""
    image = np.asarray(Image.open(Path(data_dir) / "coco" / name).convert("RGB"))
    height, width = image.shape[:2]
    refiner = build(kind, use_text=False, use_box=False)
    (encoding,) = refiner.encode([image])
    boxes = torch.tensor([[0.0, 0, width, height], [13.25, 40, width / 2, height - 9]])
    for box, logits in zip(boxes, refiner.refine_boxes(encoding, boxes)):
        expected = ask_transformers(refiner, image, box.tolist(), None, False)[0]
        assert (logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    coarse = draw_coarse(2)
    _, masks, _ = build_prompts(refiner, coarse, (height, width), encoding.input_size)
    for mask, logits in zip(masks, refiner.refine(encoding, coarse)):
        expected = ask_transformers(refiner, image, None, mask, False)[0]
        assert (logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


@torch.no_grad()
@KINDS
def test_pictures_together_equal_the_processor_and_one_at_a_time(kind):
    refiner = build(kind)
    images = [draw_image(size, seed) for seed, size in enumerate(SIZES[2:])]
    frames = build_processor(kind)(images=images, return_tensors="pt")["pixel_values"]
    for image, frame, encoding in zip(images, frames, refiner.encode(images, 2)):
        assert torch.equal(refiner._build_frame(Image.fromarray(image)), frame)
        (alone,) = refiner.encode([image])
        for name, values in alone.features.items():
            torch.testing.assert_close(encoding.features[name], values, rtol=0, atol=1e-5)


@torch.no_grad()
@KINDS
def test_words_are_prompts_of_their_own_phrase(kind):
    refiner = build(kind)
    coarse, words = draw_coarse(), draw_words()
    (encoding,) = refiner.encode([draw_image()])
    together = refiner.refine(encoding, coarse, words)
    for phrase in range(4):
        own = slice(phrase, phrase + 1)
        alone = refiner.refine(encoding, coarse[own], words[own])[0]
        assert (together[phrase] - alone).abs().max() < 1e-5 * max(1, alone.abs().max())
    words[0] = words[0] + 1
    others = refiner.refine(encoding, coarse, words)
    changed = (others - together).abs().amax((1, 2))
    assert changed[0] > 1e-4 and changed[1:].max() < 1e-4 * together.abs().max()


@pytest.mark.parametrize("prompts", [("mask",), ("box",), ("text",), ("mask", "text")], ids=str)
@KINDS
def test_what_is_trained_is_reached_and_nothing_else(kind, prompts):
    """DDP waits for the gradient of every weight that has one."""
    settings = {f"use_{name}": name in prompts for name in ("mask", "box", "text")}
    for multimask in (False, True):
        refiner = build(kind, **settings, multimask_output=multimask).train()
        assert not any(module.training for module in refiner.sam.vision_encoder.modules())
        coarse = draw_coarse().requires_grad_()
        words = [item.requires_grad_() for item in draw_words()] if refiner.use_text else None
        (encoding,) = refiner.encode([draw_image()])
        with torch.no_grad():
            outputs = refiner.refine(encoding, coarse, words)
        refiner.refine(encoding, coarse, words).square().mean().backward()
        assert outputs.shape == (4, 75, 118)
        for name, weight in refiner.named_parameters():
            assert (weight.grad is not None) == weight.requires_grad, name
        trained = {name.split(".")[1] for name, w in refiner.named_parameters() if w.requires_grad}
        encoder = set() if prompts == ("text",) and kind is SamHQRefiner else {"prompt_encoder"}
        assert trained - {"prompt_encoder"} == {"mask_decoder"} and encoder <= trained
        if refiner.use_mask:
            assert coarse.grad.abs().amax((1, 2)).min() > 0
        assert all(item.grad.abs().max() > 0 for item in words or [])


@KINDS
def test_state_dict_leaves_out_what_is_frozen(kind):
    trained, fresh = (nn.ModuleDict({"sam": build(kind)}) for _ in range(2))
    state = copy.deepcopy(trained.state_dict())
    names = {key.split(".")[2] for key in state}
    assert names == {"prompt_encoder", "mask_decoder"}
    assert not any("shared_embedding" in key or "conv_s" in key for key in state)
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert not any(fresh.load_state_dict(state, strict=True))
    state.pop("sam.sam.mask_decoder.iou_token.weight")
    missing = fresh.load_state_dict(state, strict=False).missing_keys
    assert missing == ["sam.sam.mask_decoder.iou_token.weight"]


@torch.no_grad()
@KINDS
def test_packed_encodings_come_back(kind):
    refiner = build(kind)
    (encoding,) = refiner.encode([draw_image()])
    packed = refiner.pack(encoding)
    again = refiner.unpack(packed, encoding.original_size)
    assert (again.original_size, again.input_size) == (encoding.original_size, encoding.input_size)
    wanted = refiner.refine(encoding, draw_coarse(), draw_words())
    assert torch.equal(refiner.refine(again, draw_coarse(), draw_words()), wanted)
    assert sum(values.numel() for values in packed.values()) == (
        32 * 8 * 8 + 4 * 32 * 32 + 8 * 16 * 16 if kind is Sam2Refiner else 2 * 32 * 8 * 8
    )


@KINDS
def test_a_description_changes_with_what_an_encoding_depends_on(kind):
    first, second = build(kind), build(kind, use_text=False)
    with torch.no_grad():
        second.sam.mask_decoder.iou_token.weight += 1
    assert first.describe() == second.describe()
    with torch.no_grad():
        next(second.sam.vision_encoder.parameters()).view(-1)[0] += 1
    assert first.describe() != second.describe()


@torch.no_grad()
@KINDS
def test_low_precision_stays_close_and_phases_stay_exact(kind):
    refiner = build(kind)
    arguments = draw_coarse(), draw_words()
    expected = refiner.refine(refiner.encode([draw_image()])[0], *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = refiner.refine(refiner.encode([draw_image()])[0], *arguments)
    refiner.to(torch.bfloat16)
    assert refiner.sam.shared_image_embedding.positional_embedding.dtype == torch.float32
    low = refiner.refine(refiner.encode([draw_image()])[0], *arguments)
    for refined in (mixed, low):
        assert refined.dtype == torch.float32
        assert (refined - expected).abs().mean() < 0.15 * expected.abs().mean()


@KINDS
def test_weights_of_a_folder_are_loaded(kind, tmp_path):
    wanted = build(kind)
    wanted.sam.save_pretrained(tmp_path)
    loaded = kind(str(tmp_path))
    assert loaded.describe() == wanted.describe()
    for name, value in wanted.sam.state_dict().items():
        assert torch.equal(loaded.sam.state_dict()[name], value), name


@KINDS
def test_wrong_weights_are_refused(kind, tmp_path):
    name = kind.__name__
    with pytest.raises(ValueError, match=rf"{name} needs name_or_path .* or else random_init"):
        kind()
    with pytest.raises(ValueError, match=f"{name} has no prompt: set at least one"):
        build(kind, use_mask=False, use_box=False, use_text=False)
    with pytest.raises(FileNotFoundError, match=r"absent cannot be loaded .*give a folder with"):
        kind(str(tmp_path / "absent"))
    model = build(kind).sam
    weights = model.state_dict()
    part = {key: value for key, value in weights.items() if "iou_token" not in key}
    model.save_pretrained(tmp_path / "part", state_dict=part)
    with pytest.raises(ValueError, match=r"part is no whole Sam.*Model: 1 weights are missing"):
        kind(str(tmp_path / "part"))
    weights["mask_decoder.iou_token.weight"] = weights["mask_decoder.iou_token.weight"] * np.nan
    model.save_pretrained(tmp_path / "nan", state_dict=weights)
    with pytest.raises(ValueError, match=r"iou_token\.weight holds NaN or infinite"):
        kind(str(tmp_path / "nan"))


@torch.no_grad()
@KINDS
def test_words_are_refused_where_they_are_not_asked_for(kind):
    refiner = build(kind, use_text=False)
    (encoding,) = refiner.encode([draw_image()])
    with pytest.raises(ValueError, match=f"this {kind.__name__} takes no words: build it with"):
        refiner.refine(encoding, draw_coarse(), draw_words())
    assert refiner.refine(encoding, torch.zeros(0, 3, 4)).shape == (0, 75, 118)


@torch.no_grad()
def test_evaluation_takes_the_token_that_training_trains():
    """However unstable: transformers' own fallback would take another one in eval mode."""
    refiner = build(Sam2Refiner)
    for mlp in refiner.sam.mask_decoder.output_hypernetworks_mlps:
        mlp.proj_out.weight *= 1e-3
        mlp.proj_out.bias.zero_()
    (encoding,) = refiner.encode([draw_image()])
    arguments = encoding, draw_coarse(), draw_words()
    trained = refiner.train().refine(*arguments)
    assert 0 < trained.abs().max() < 0.05, "less than the fallback's threshold"
    assert torch.equal(refiner.eval().refine(*arguments), trained)


def test_the_real_classes_are_used():
    assert isinstance(build(Sam2Refiner).sam, Sam2Model)
    assert isinstance(build(SamHQRefiner).sam, SamHQModel)
