"""Mixed precision around the whole chain: half in the head and the refiner, float32 in the losses.

On a GPU ``AmpOptimWrapper`` opens the same context; what its kernels do is not tested here.
"""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from flmm.checkpoints.checkpoint import load_weights
from flmm.records import GroundingSample, as_continuations
from flmm.registry import MODELS
from flmm.toy.shape_sentences import render_samples

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
HALVES = [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.heavy)]
PICTURES = 4


@pytest.fixture(scope="module")
def grounder():
    config = Config.fromfile(TINY)
    model = MODELS.build(config.model)
    load_weights(model, config.weights)
    return model.eval()


@pytest.fixture(scope="module")
def batch(grounder):
    samples = render_samples(PICTURES, seed=11)
    inputs = [grounder.vlm.image_processor.encode(sample.image) for sample in samples]
    return inputs, [
        GroundingSample(
            continuations=as_continuations(sample.phrases), gt_masks=torch.from_numpy(sample.masks)
        )
        for sample in samples
    ]


@pytest.fixture(scope="module")
def exact(grounder, batch):
    with torch.no_grad():
        return grounder(*batch)


def compute_overlap(masks, others):
    """IoU of all pixels of all phrases together."""
    return float((masks & others).sum() / (masks | others).sum())


def record_dtypes(modules):
    """Dtypes that modules give, by name, and the hooks that note them."""
    seen = {}

    def note(name):
        return lambda module, args, output: seen.setdefault(name, set()).add(output.dtype)

    return seen, [module.register_forward_hook(note(name)) for name, module in modules.items()]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_masks_stay_close_and_come_out_in_float32(grounder, batch, exact, dtype):
    decoder = grounder.sam.sam.mask_decoder
    modules = {
        "mask head": grounder.mask_head.conv_seg,
        "text projection": grounder.text_proj,
        "image encoder": next(
            m for m in grounder.sam.sam.image_encoder.modules() if isinstance(m, nn.Linear)
        ),
        "mask decoder": decoder.output_hypernetworks_mlps[0],
    }
    seen, hooks = record_dtypes(modules)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        outputs = grounder(*batch)
    for hook in hooks:
        hook.remove()
    assert seen == {name: {dtype} for name in modules}  # all of them really ran in half precision
    for output, wanted in zip(outputs, exact):
        assert torch.equal(output.attention_maps, wanted.attention_maps)  # the reader has its own
        for name in ("coarse_mask_logits", "refined_mask_logits"):
            logits, expected = getattr(output, name), getattr(wanted, name)
            assert logits.dtype == torch.float32 and logits.shape == expected.shape
            assert compute_overlap(logits > 0, expected > 0) > 0.97


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_losses_are_float32_and_teach_the_same(grounder, batch, dtype):
    grounder.train()
    trained = {name: p for name, p in grounder.named_parameters() if p.requires_grad}
    gradients = {}
    for name in ("float32", "half"):
        with torch.autocast("cpu", dtype, enabled=name == "half"):
            losses = {k: v for k, v in grounder(*batch, mode="loss").items() if "loss" in k}
        assert {value.dtype for value in losses.values()} == {torch.float32}
        # Float16's gradients would fall below its least number without mmengine's loss scale.
        scale = 2.0**10
        grounder.zero_grad()
        (scale * sum(losses.values())).backward()
        assert all(p.grad.dtype == p.dtype == torch.float32 for p in trained.values())
        gradients[name] = torch.cat([p.grad.flatten() for p in trained.values()]) / scale
        gradients[f"{name} losses"] = torch.stack(list(losses.values())).detach()
    grounder.zero_grad()
    grounder.eval()
    torch.testing.assert_close(
        gradients["half losses"], gradients["float32 losses"], rtol=0.05, atol=5e-3
    )
    assert gradients["half"].isfinite().all()
    cosine = nn.functional.cosine_similarity(gradients["half"], gradients["float32"], dim=0)
    assert cosine > 0.95


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_predictions_stay_close(grounder, batch, exact, dtype):
    inputs, samples = batch
    with torch.autocast("cpu", dtype):
        predicted = grounder(inputs, [sample.clone() for sample in samples], mode="predict")
    for sample, wanted in zip(predicted, exact):
        assert compute_overlap(sample.pred_masks, wanted.refined_mask_logits > 0) > 0.97
        assert sample.scores.isfinite().all() and sample.scores.dtype == torch.float32
