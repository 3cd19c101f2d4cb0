"""The grounder: modes, what is trained, what a checkpoint holds, losses, the whole chain."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import get_state_dict
from PIL import Image

from flmm.checkpoints.checkpoint import load_weights, save_trainable
from flmm.geometry import resize_maps
from flmm.grounder import FrozenQwenSAM, Grounder
from flmm.inferencer import GroundingInferencer
from flmm.records import Continuation, GroundingSample, as_continuations
from flmm.registry import MODELS
from flmm.toy.shape_sentences import render_samples
from tests.small_models import build_small_model, load_processor

TINY = "configs/tiny/tiny_unet_sam_shapes.py"


@pytest.fixture(scope="module")
def grounder():
    torch.manual_seed(0)
    return MODELS.build(Config.fromfile(TINY).model)


@pytest.fixture(scope="module")
def batch(grounder):
    samples = render_samples(3, seed=4)
    inputs = [grounder.vlm.image_processor.encode(sample.image) for sample in samples]
    data_samples = [
        GroundingSample(
            continuations=as_continuations(sample.phrases),
            gt_masks=torch.from_numpy(sample.masks),
        )
        for sample in samples
    ]
    return inputs, data_samples


def test_is_an_mmengine_model_under_both_names(grounder):
    assert isinstance(grounder, BaseModel) and isinstance(grounder, Grounder)
    assert MODELS.get("FrozenQwenSAM") is FrozenQwenSAM


def test_mask_head_has_one_channel_per_layer_and_head(grounder):
    config = grounder.vlm.text_config
    wanted = config.num_hidden_layers * config.num_attention_heads
    assert grounder.mask_head.encoder[0][0].convs[0].conv.in_channels == wanted


def sample_at_centres(masks, size):
    """Each cell of ``size`` takes the pixel of ``[P, H, W]`` under its centre, as float64."""
    rows, columns = (
        ((torch.arange(cells) + 0.5) * pixels / cells).long()
        for cells, pixels in zip(size, masks.shape[-2:])
    )
    return masks[:, rows][:, :, columns].double()


@pytest.fixture(scope="module")
def short(grounder):
    """A grounder whose head looks at the first two layers."""
    torch.manual_seed(1)
    head = {"type": "UNetHead", "layers": 2, "base_channels": 4}
    selector = {"type": "KeywordSelector"}
    return Grounder(grounder.vlm, head, grounder.sam, keyword_selector=selector)


def test_a_head_that_looks_at_the_first_layers_reads_no_others(grounder, short, batch, monkeypatch):
    """The same masks, whatever was read beside."""
    vlm, (inputs, data_samples) = grounder.vlm, batch
    assert short.mask_head.in_channels == 2 * vlm.num_heads and len(short.text_layer_weights) == 2
    assert short.layers == vlm.num_layers  # a keyword selector learns what all layers think
    expected = short(*batch)
    with monkeypatch.context() as patch:
        patch.setattr(short, "keyword_selector", None)
        assert short.layers == 2 and grounder.layers == vlm.num_layers
        read = short.read_phrases(inputs, [sample.continuations for sample in data_samples])
        assert {seen.maps.shape[1] for seen in read} == {2 * vlm.num_heads}
        for output, wanted in zip(short(*batch), expected):
            for name in ("coarse_mask_logits", "refined_mask_logits"):
                torch.testing.assert_close(
                    getattr(output, name), getattr(wanted, name), rtol=1e-5, atol=1e-5
                )
        short(*batch, mode="loss")["loss_mask"].backward()
        inferencer = GroundingInferencer.from_model(short)
        assert inferencer(inputs[0], "the red circle").masks.shape[0] == 1
        chat = inferencer.chat(inputs[0], ["brackets"])  # needs all layers, and reads again
        turn = chat.ask("Where is [the red circle]?", max_new_tokens=1)
        whole = GroundingInferencer.from_model(grounder).chat(inputs[0], ["brackets"])
        assert turn.text == whole.ask("Where is [the red circle]?", max_new_tokens=1).text
        assert turn.phrases[0].mask.shape == inputs[0].original_size
    with pytest.raises(
        ValueError, match=r"mask_head\.layers is 6, and the reader has 5: give 1 to"
    ):
        Grounder(vlm, {"type": "UNetHead", "layers": 6})


def test_losses_equal_a_direct_computation(grounder, batch):
    """Weighted by phrases; sigmoid cross-entropy and naive dice with eps 1, in plain torch."""
    inputs, data_samples = batch
    figures = grounder(inputs, data_samples, mode="loss")
    outputs = grounder(inputs, data_samples)
    for prefix, field in (("", "coarse_mask_logits"), ("refined_", "refined_mask_logits")):
        masks, dices, ious, hits = [], [], [], []
        for output, sample in zip(outputs, data_samples):
            logits = getattr(output, field).double()
            for row, target in zip(
                logits.flatten(1), sample_at_centres(sample.gt_masks, logits.shape[-2:]).flatten(1)
            ):
                probs, found = row.sigmoid(), row > 0
                masks.append(-(target * probs.log() + (1 - target) * (1 - probs).log()).mean())
                overlap = (probs * target).sum()
                dices.append(1 - (2 * overlap + 1) / (probs.sum() + target.sum() + 1))
                both, either = (found & (target > 0)).sum(), (found | (target > 0)).sum()
                ious.append(both / either.clamp(min=1))
                hits.append((found == (target > 0)).double().mean())
        wanted = {"loss_mask": masks, "loss_dice": dices, "aiou": ious, "accuracy": hits}
        for name, values in wanted.items():
            mean = float(torch.stack(values).detach().mean())
            assert float(figures[prefix + name].detach()) == pytest.approx(mean, rel=1e-4), name


@pytest.mark.parametrize("off", ["loss_mask", "loss_dice"])
def test_a_loss_that_is_none_is_neither_logged_nor_trained(grounder, batch, off):
    """The gradient of a grounder without it is that of the other loss alone."""
    config = Config.fromfile(TINY)
    config.merge_from_dict({f"model.{off}": None})
    ablated = MODELS.build(config.model)
    ablated.load_state_dict(grounder.state_dict(), strict=False)
    figures = ablated(*batch, mode="loss")
    (kept,) = {"loss_mask", "loss_dice"} - {off}
    assert {name for name in figures if "loss" in name} == {kept, f"refined_{kept}"}
    ablated.parse_losses(figures)[0].backward()
    whole = grounder(*batch, mode="loss")
    (whole[kept] + whole[f"refined_{kept}"]).backward()
    for name, weight in grounder.named_parameters():
        own = ablated.get_parameter(name)
        torch.testing.assert_close(own.grad, weight.grad, msg=name)
    grounder.zero_grad()


def test_no_loss_at_all_is_refused_in_training_alone(grounder, batch):
    small = Grounder(grounder.vlm, grounder.mask_head, loss_mask=None, loss_dice=None)
    assert len(small(*batch)) == len(batch[0])
    with pytest.raises(
        ValueError, match=r"loss_mask and model\.loss_dice are both None.*leave one"
    ):
        small(*batch, mode="loss")
    names = Grounder(grounder.vlm, grounder.mask_head)(*batch, mode="loss").keys()
    assert {"loss_mask", "loss_dice"} <= names  # what is not said is on


def test_gradient_reaches_every_trained_part_and_nothing_else(grounder, batch):
    grounder.train()
    figures = grounder(*batch, mode="loss")
    sum(value for name, value in figures.items() if "loss" in name).backward()
    touched = {name for name, p in grounder.named_parameters() if p.grad is not None}
    assert {"text_proj.weight", "text_layer_weights", "mask_head.conv_seg.weight"} <= touched
    assert any(name.startswith("sam.sam.mask_decoder") for name in touched)
    assert any(name.startswith("sam.sam.prompt_encoder.mask_downscaling") for name in touched)
    assert not any("image_encoder" in name for name in touched)
    assert all(p.grad is None and not p.requires_grad for p in grounder.vlm.model.parameters())
    assert not grounder.vlm.model.training
    grounder.zero_grad()


def test_predict_is_the_thresholded_tensor_mode(grounder, batch):
    inputs, data_samples = batch
    grounder.eval()
    outputs = grounder(inputs, data_samples)
    predicted = grounder(inputs, [sample.clone() for sample in data_samples], mode="predict")
    for output, sample, image in zip(outputs, predicted, inputs):
        assert sample.pred_masks.shape == sample.gt_masks.shape
        assert torch.equal(sample.pred_masks, output.refined_mask_logits > 0)
        coarse = resize_maps(output.coarse_mask_logits, image.original_size) > 0
        assert torch.equal(sample.coarse_masks, coarse)
        for mask, score, logits in zip(
            sample.pred_masks, sample.scores, output.refined_mask_logits
        ):
            wanted = logits.sigmoid()[mask].mean() if mask.any() else 0.0
            assert float(score) == pytest.approx(float(torch.as_tensor(wanted).detach()), abs=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda g: g.vlm.model.get_decoder().layers[0].self_attn.k_proj.weight, "the reader's att"),
        (lambda g: g.mask_head.conv_seg.bias, "what the mask head UNetHead gives holds NaN"),
        (lambda g: g.sam.sam.image_encoder.patch_embed.proj.bias, "what SAM's mask decoder gives"),
        (lambda g: g.text_proj.bias, "what SAM's mask decoder gives holds NaN"),
    ],
)
def test_damaged_weights_are_an_error_and_no_empty_mask(grounder, batch, damage, message):
    grounder.eval()
    weight = damage(grounder).data
    kept = weight.clone()
    try:
        weight.flatten()[0] = float("nan")
        with pytest.raises(ValueError, match=message):
            grounder(batch[0][:1], [batch[1][0].clone()], mode="predict")
    finally:
        weight.copy_(kept)


def test_a_phrase_does_not_depend_on_its_sisters(grounder, batch):
    image, sample = batch[0][0], batch[1][0]
    grounder.eval()
    with torch.no_grad():
        together = grounder.ground(image, sample.continuations)
        for index, item in enumerate(sample.continuations):
            alone = grounder.ground(image, [item])
            torch.testing.assert_close(
                together.refined_mask_logits[index], alone.refined_mask_logits[0], atol=2e-4, rtol=0
            )


def test_caption_gives_one_mask_per_span(grounder, batch):
    caption = Continuation("a red circle and a small blue square", ((0, 12), (17, 36)))
    with torch.no_grad():
        output = grounder.ground(batch[0][0], [caption])
    assert len(output.refined_mask_logits) == 2


def test_checkpoint_holds_trainable_weights_only(grounder, tmp_path):
    trainable = {name for name, p in grounder.named_parameters() if p.requires_grad}
    for state in (grounder.state_dict(), get_state_dict(grounder)):
        assert trainable <= set(state)
        assert not any("image_encoder" in key or key.startswith("vlm") for key in state)
    for suffix in ("safetensors", "pth"):
        path = tmp_path / f"head.{suffix}"
        save_trainable(grounder, path)
        other = MODELS.build(Config.fromfile(TINY).model)
        load_weights(other, path)
        for name, value in grounder.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
    loaded = torch.load(tmp_path / "head.pth", weights_only=True)
    assert set(loaded["state_dict"]) == set(grounder.state_dict())


def test_without_a_refiner_the_coarse_mask_is_the_mask(batch):
    cfg = Config.fromfile(TINY).model
    cfg.sam = None
    model = MODELS.build(cfg).eval()
    figures = model(*batch, mode="loss")
    assert set(figures) == {"loss_mask", "loss_dice", "aiou", "accuracy"}
    with torch.no_grad():
        output = model(*batch)[0]
    size = batch[0][0].original_size
    torch.testing.assert_close(
        output.refined_mask_logits, resize_maps(output.coarse_mask_logits, size)
    )


def test_bad_calls_are_told(grounder, batch):
    inputs, data_samples = batch
    with pytest.raises(ValueError, match="3 pictures but 1 data samples"):
        grounder(inputs, data_samples[:1])
    with pytest.raises(ValueError, match="mode is 'train': use 'loss', 'predict' or 'tensor'"):
        grounder(inputs, data_samples, mode="train")


@pytest.mark.heavy  # its sister: test_real_processors_and_vit_b_give_masks_of_a_photograph
def test_a_photograph_through_the_full_size_chain(data_dir):
    """Real processor files, shrunken random Qwen2.5-VL, a full-size random SAM ViT-B.

    Of the twelve blocks of its encoder run two, one of each kind: they differ in weights alone.
    """
    model = build_small_model(data_dir, "qwen2_5_vl")
    reader = {"type": "FrozenQwen", "name_or_path": model, "dtype": "float32"}
    reader["processor"] = load_processor(data_dir, "qwen2_5_vl")
    reader["max_pixels"] = 400 * 28 * 28
    torch.manual_seed(0)
    grounder = MODELS.build(
        {
            "type": "FrozenQwenSAM",
            "model": reader,
            "mask_head": {"type": "UNetHead", "base_channels": 16},
            "sam": {"type": "SAMRefiner", "model_name": "vit_b"},
        }
    ).eval()
    encoder = grounder.sam.sam.image_encoder
    encoder.blocks = encoder.blocks[1:3]
    assert [block.window_size for block in encoder.blocks] == [14, 0]
    with Image.open(data_dir / "coco" / "000000000785.jpg") as picture:
        image = np.asarray(picture.convert("RGB"))
    annotations = json.loads((data_dir / "coco" / "instances_people.json").read_text())
    assert any(item["id"] == 785 for item in annotations["images"])
    with torch.no_grad():
        encoded = grounder.vlm.image_processor.encode(image)
        output = grounder.ground(encoded, as_continuations(["the woman on skis", "滑雪的人"]))
    height, width = image.shape[:2]
    rows, columns = encoded.grids[0].size
    assert output.attention_maps.shape == (2, grounder.vlm.num_maps, rows, columns)
    assert output.refined_mask_logits.shape == (2, height, width)
    assert output.refined_mask_logits.isfinite().all()
    assert rows / columns == pytest.approx(height / width, rel=0.08)
