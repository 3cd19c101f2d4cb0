"""``SAMRefiner``: segment-anything's own numbers, all phrases together, the encoder frozen."""

import copy

import numpy as np
import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict
from PIL import Image
from safetensors.torch import save_file
from segment_anything import SamPredictor
from torch import nn

from flmm.masks import SAMRefiner, build_tiny_sam
from flmm.masks.refiners import segment_anything

SIZE = (75, 118)


@pytest.fixture(autouse=True)
def no_embedded_weights(monkeypatch, tmp_path):
    """Random weights, whatever the package ships."""
    monkeypatch.setattr(segment_anything, "TINY_WEIGHTS", tmp_path / "absent.safetensors")
    torch.manual_seed(0)


def build_refiner(**settings):
    """Random weights, scaled so that the logits are of the order of one."""
    refiner = SAMRefiner("tiny", **settings).eval()
    for mlp in refiner.sam.mask_decoder.output_hypernetworks_mlps:
        nn.init.normal_(mlp.layers[-1].weight)
    return refiner


def encode(refiner, image):
    return refiner.encode([image])[0]


def refine(refiner, image, coarse, words=None):
    """A picture's masks; it is encoded for them."""
    return refiner.refine(encode(refiner, image), coarse, words)


def draw_image(size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def draw_coarse(phrases=4, size=(23, 31), seed=0):
    """Smooth logits with a foreground of their own per phrase."""
    generator = torch.Generator().manual_seed(seed)
    rough = 4 * torch.randn(phrases, 1, 4, 5, generator=generator)
    return nn.functional.interpolate(rough, size, mode="bicubic")[:, 0]


def draw_text(lengths=(3, 1, 3, 7), width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator) for length in lengths]


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
def test_phrases_together_equal_one_at_a_time(multimask):
    refiner = build_refiner(multimask_output=multimask)
    coarse, text = draw_coarse(), draw_text()
    together = refine(refiner, draw_image(), coarse, text)
    assert together.shape == (4, *SIZE)
    assert together.dtype == torch.float32
    assert (together - together.roll(1, 0)).abs().amax((1, 2)).min() > 0.01, "phrases differ"
    for phrase in range(4):
        alone = refine(
            refiner, draw_image(), coarse[phrase : phrase + 1], text[phrase : phrase + 1]
        )
        assert (together[phrase] - alone[0]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("size", [SIZE, (300, 41), (256, 256)], ids=str)
def test_equals_sam_predictor(size, multimask):
    refiner = build_refiner(use_text=False, multimask_output=multimask)
    image, coarse = draw_image(size), draw_coarse()
    refined = refine(refiner, image, coarse)

    predictor = SamPredictor(refiner.sam)
    predictor.set_image(image)
    original = nn.functional.interpolate(
        coarse[None].sigmoid(), size, mode="bilinear", align_corners=False
    )[0]
    for phrase, mask in enumerate(original > 0.5):
        rows, columns = np.where(mask.numpy())
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        inside = nn.functional.interpolate(
            coarse[phrase, None, None], predictor.input_size, mode="bilinear"
        )
        right, bottom = 256 - inside.shape[-1], 256 - inside.shape[-2]
        floor = min(-1.0, coarse[phrase].min().item())
        framed = nn.functional.pad(inside, (0, right, 0, bottom), value=floor)
        logits, _, _ = predictor.predict_torch(
            point_coords=None,
            point_labels=None,
            boxes=torch.from_numpy(predictor.transform.apply_boxes(box, size)).float(),
            mask_input=nn.functional.interpolate(framed, (64, 64), mode="bilinear"),
            multimask_output=multimask,
            return_logits=True,
        )
        candidates = logits[0]
        unions = ((candidates > 0) | mask).sum((1, 2))
        best = (((candidates > 0) & mask).sum((1, 2)) / unions).argmax()
        assert (refined[phrase] - candidates[best]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("size", [SIZE, (300, 41), (256, 256)], ids=str)
def test_boxes_alone_equal_sam_predictor(size):
    """Whatever the refiner's own prompts are: a box is all that segment-anything is given."""
    refiner = build_refiner(use_text=True, multimask_output=True)
    image, (height, width) = draw_image(size), size
    boxes = torch.tensor(
        [[0.0, 0.0, width, height], [3.25, 5, width / 2, height - 2], [1, 2, 9, 8]]
    )
    got = refiner.refine_boxes(encode(refiner, image), boxes)
    assert got.shape == (3, *size) and got.dtype == torch.float32
    predictor = SamPredictor(refiner.sam)
    predictor.set_image(image)
    for logits, box in zip(got, boxes):
        expected, _, _ = predictor.predict(
            box=box.numpy(), multimask_output=False, return_logits=True
        )
        assert np.abs(logits.numpy() - expected[0]).max() < 1e-5
    assert (got - got.roll(1, 0)).abs().amax((1, 2)).min() > 0.01, "boxes differ"


def test_no_box_gives_no_mask():
    refiner = build_refiner()
    assert refiner.refine_boxes(encode(refiner, draw_image()), torch.zeros(0, 4)).shape == (
        0,
        *SIZE,
    )


@torch.no_grad()
def test_encoding_equals_set_image_and_may_be_reused():
    refiner = build_refiner(use_text=False)
    predictor = SamPredictor(refiner.sam)
    images = [draw_image(size, seed) for seed, size in enumerate([SIZE, (40, 200), (90, 90)])]
    encodings = refiner.encode([images[0], Image.fromarray(images[1]), images[2]], 2)
    for image, encoding in zip(images, encodings):
        predictor.set_image(image)
        assert encoding.original_size == image.shape[:2]
        assert encoding.input_size == predictor.input_size
        assert (encoding.features["embedding"] - predictor.features).abs().max() < 1e-5
    coarse = draw_coarse()
    assert (
        refiner.refine(encodings[0], coarse) - refine(refiner, images[0], coarse)
    ).abs().max() < 1e-5


@pytest.mark.parametrize("prompts", [("mask",), ("box",), ("text",), ("mask", "text")], ids=str)
def test_every_choice_of_prompts_works(prompts):
    settings = {f"use_{name}": name in prompts for name in ("mask", "box", "text")}
    refiner = build_refiner(**settings)
    text = draw_text() if refiner.use_text else None
    assert refine(refiner, draw_image(), draw_coarse(), text).shape == (4, *SIZE)


def test_gradients_reach_mask_and_text_but_not_the_encoder():
    refiner = SAMRefiner("tiny").train()
    coarse = draw_coarse().requires_grad_()
    text = [words.requires_grad_() for words in draw_text()]
    refine(refiner, draw_image(), coarse, text).square().mean().backward()
    assert coarse.grad.abs().amax((1, 2)).min() > 0
    assert all(words.grad.abs().max() > 0 for words in text)
    assert all(weight.grad is None for weight in refiner.sam.image_encoder.parameters())
    assert refiner.sam.mask_decoder.mask_tokens.weight.grad.abs().max() > 0
    assert refiner.sam.prompt_encoder.mask_downscaling[0].weight.grad.abs().max() > 0


def test_only_the_encoder_is_frozen_and_stays_in_eval_mode():
    refiner = nn.ModuleDict({"sam": SAMRefiner("tiny")}).train()["sam"]
    assert refiner.training and refiner.sam.mask_decoder.training
    assert not any(module.training for module in refiner.sam.image_encoder.modules())
    trainable = {name for name, weight in refiner.named_parameters() if weight.requires_grad}
    assert {name.split(".")[1] for name in trainable} == {"prompt_encoder", "mask_decoder"}


@pytest.mark.parametrize("read", [nn.Module.state_dict, get_state_dict])
def test_state_dict_leaves_the_encoder_out(read):
    parent = nn.ModuleDict({"sam": build_refiner()})
    state = read(parent)
    assert state
    assert {key.split(".")[2] for key in state} == {"prompt_encoder", "mask_decoder"}
    assert any("image_encoder" in key for key in parent["sam"].sam.state_dict())


def test_loading_does_not_miss_the_encoder(capsys):
    trained, fresh = (nn.ModuleDict({"sam": build_refiner()}) for _ in range(2))
    state = copy.deepcopy(trained).state_dict()
    before = fresh["sam"].sam.image_encoder.patch_embed.proj.weight.clone()
    result = fresh.load_state_dict(state, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    mmengine_load_state_dict(fresh, state, strict=True)
    assert torch.equal(fresh["sam"].sam.image_encoder.patch_embed.proj.weight, before)
    state.pop("sam.sam.mask_decoder.iou_token.weight")
    missing = fresh.load_state_dict(state, strict=False).missing_keys
    assert missing == ["sam.sam.mask_decoder.iou_token.weight"]


def test_no_phrase_gives_no_mask():
    refiner = build_refiner()
    assert refine(refiner, draw_image(), torch.zeros(0, 5, 7), []).shape == (0, *SIZE)


def test_empty_coarse_mask_is_prompted_with_the_whole_picture():
    refiner = build_refiner()
    encoding = encode(refiner, draw_image())
    empty = torch.full((1, 5, 7), -3.0)
    box = refiner.build_box_prompts(empty, encoding.original_size, encoding.input_size)
    assert box.tolist() == [[0, 0, 256, 163]]
    assert encoding.input_size == (163, 256)
    assert refiner.refine(encoding, empty, draw_text((2,))).isfinite().all()


def test_padding_of_the_mask_prompt_is_the_phrases_own():
    refiner = build_refiner()
    flat = torch.tensor([-5.0, 2.0]).view(2, 1, 1).expand(2, 6, 12)
    prompts = refiner.build_mask_prompts(flat, (128, 256))
    assert prompts[:, 0, -1, -1].tolist() == [-5.0, -1.0]
    assert prompts[:, 0, 0, 0].tolist() == [-5.0, 2.0]


def test_multimask_keeps_the_candidate_that_fits_the_coarse_mask(monkeypatch):
    refiner = build_refiner(use_text=False, multimask_output=True)
    candidates = torch.full((2, 3, 64, 64), -1.0)
    candidates[:, 0, :, :32] = 1.0
    candidates[:, 2, :, 32:] = 1.0
    monkeypatch.setattr(refiner.sam.mask_decoder, "forward", lambda **_: (candidates, None))
    coarse = torch.full((2, 8, 8), -4.0)
    coarse[0, :, :4] = 4.0
    coarse[1, :, 4:] = 4.0
    refined = refine(refiner, draw_image((64, 64)), coarse) > 0
    assert refined[0, :, :30].all() and not refined[0, :, 34:].any()
    assert refined[1, :, 34:].all() and not refined[1, :, :30].any()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_stays_close(dtype):
    refiner = build_refiner()
    image, coarse, text = draw_image(), draw_coarse(), draw_text()
    expected = refine(refiner, image, coarse, text)
    parent = nn.ModuleDict({"sam": refiner}).to(dtype)
    refined = refine(parent["sam"], image, coarse.to(dtype), [words.to(dtype) for words in text])
    assert refiner.dtype == dtype
    assert refiner.sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.dtype == (
        torch.float32
    )
    assert refined.dtype == torch.float32
    assert (refined - expected).abs().mean() < 0.1 * expected.abs().mean()


@torch.no_grad()
def test_autocast_stays_close():
    refiner = build_refiner()
    arguments = draw_image(), draw_coarse(), draw_text()
    expected = refine(refiner, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        refined = refine(refiner, *arguments)
    assert (refined - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_is_loaded(tmp_path, suffix):
    weights = build_tiny_sam().state_dict()
    path = tmp_path / f"sam{suffix}"
    (torch.save if suffix == ".pth" else save_file)(weights, path)
    loaded = SAMRefiner("tiny", checkpoint=str(path)).sam.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_embedded_weights_are_the_default_of_tiny(tmp_path, monkeypatch):
    weights = build_tiny_sam().state_dict()
    save_file(weights, tmp_path / "tiny_sam.safetensors")
    monkeypatch.setattr(segment_anything, "TINY_WEIGHTS", tmp_path / "tiny_sam.safetensors")
    loaded = SAMRefiner("tiny").sam.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_refuses_a_wrong_model_or_file(tmp_path):
    with pytest.raises(ValueError, match="unknown SAM 'vit_x': choose one of default, tiny"):
        SAMRefiner("vit_x")
    with pytest.raises(ValueError, match="no prompt: set at least one"):
        SAMRefiner("tiny", use_mask=False, use_box=False, use_text=False)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth does not exist: download it"):
        SAMRefiner("tiny", checkpoint=tmp_path / "absent.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a file of weights"):
            SAMRefiner("tiny", checkpoint=tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "training.pth")
    with pytest.raises(ValueError, match=r"training\.pth is no state dict"):
        SAMRefiner("tiny", checkpoint=tmp_path / "training.pth")


def test_names_the_architecture_of_a_wrong_checkpoint(tmp_path):
    path = tmp_path / "sam.pth"
    torch.save(build_tiny_sam().state_dict(), path)
    with pytest.raises(ValueError, match=r"sam\.pth does not hold a 'vit_b'.*model_name='tiny'"):
        SAMRefiner("vit_b", checkpoint=path)
    torch.save(build_tiny_sam().mask_decoder.state_dict(), path)
    with pytest.raises(ValueError, match="give a checkpoint of segment-anything itself"):
        SAMRefiner("tiny", checkpoint=path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "holds NaN or infinite"),
        (torch.int32, "is torch.int32, the model's torch.fl"),
    ],
)
def test_refuses_weights_that_mean_nothing(tmp_path, value, message):
    weights = build_tiny_sam().state_dict()
    name = "mask_decoder.iou_token.weight"
    changed = weights[name].to(value) if isinstance(value, torch.dtype) else weights[name] * value
    torch.save(weights | {name: changed}, tmp_path / "sam.pth")
    with pytest.raises(
        ValueError, match=rf"sam\.pth does not hold a 'tiny': 1 tensors .*iou_token.* {message}"
    ):
        SAMRefiner("tiny", checkpoint=tmp_path / "sam.pth")


def test_refuses_text_and_images_it_cannot_use():
    refiner = build_refiner()
    with pytest.raises(ValueError, match="got the words of 0 phrases for 4 phrases"):
        refine(refiner, draw_image(), draw_coarse())
    with pytest.raises(ValueError, match=r"shape \(3, 32\), expected \[T, 64\]"):
        refine(refiner, draw_image(), draw_coarse(), draw_text(width=32))
    with pytest.raises(TypeError, match="dict is not an image"):
        encode(refiner, {})
