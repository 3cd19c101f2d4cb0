"""The three-line API: results, batches, errors, and what it must not import."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from flmm import Continuation, GroundingInferencer
from flmm.checkpoints.checkpoint import save_trainable
from flmm.toy.shape_sentences import render_samples

TINY = "configs/tiny/tiny_unet_sam_shapes.py"


@pytest.fixture(scope="module")
def inferencer():
    return GroundingInferencer(TINY, device="cpu")


@pytest.fixture(scope="module")
def samples():
    return render_samples(3, seed=12)


def test_result_is_as_documented(inferencer, samples):
    image, phrases, _ = samples[0]
    height, width = image.shape[:2]
    result = inferencer(image, phrases)
    assert result.masks.shape == (len(phrases), height, width) and result.masks.dtype == bool
    assert result.scores.shape == (len(phrases),) and result.scores.dtype == np.float32
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert result.coarse_mask_logits is None and result.attention_maps is None
    for mask, box in zip(result.masks, result.boxes_xyxy):
        if not mask.any():
            assert np.isnan(box).all()
            continue
        ys, xs = np.where(mask)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_maps_come_when_asked_for(inferencer, samples):
    image, phrases, _ = samples[0]
    result = inferencer(image, phrases, return_maps=True)
    assert result.attention_maps.shape[:2] == (len(phrases), inferencer.model.vlm.num_maps)
    assert result.coarse_mask_logits.shape[0] == len(phrases)


def test_coco_records_decode_to_the_masks(inferencer, samples):
    image, phrases, _ = samples[1]
    result = inferencer(image, phrases)
    for record, mask, phrase in zip(result.to_coco(), result.masks, phrases):
        assert record["phrase"] == phrase
        assert np.array_equal(coco_mask.decode(record["segmentation"]).astype(bool), mask)
        assert record["bbox"] == coco_mask.toBbox(record["segmentation"]).tolist()


def test_every_kind_of_picture_gives_the_same_masks(inferencer, samples, tmp_path):
    image, phrases, _ = samples[0]
    path = tmp_path / "scene.png"
    Image.fromarray(image).save(path)
    wanted = inferencer(image, phrases).masks
    for picture in (path, str(path), path.read_bytes(), Image.open(path), Image.fromarray(image)):
        assert np.array_equal(inferencer(picture, phrases).masks, wanted)


def test_a_batch_is_one_by_one(inferencer, samples, capsys):
    images, phrases = [s.image for s in samples], [s.phrases for s in samples]
    results = inferencer(images, phrases, progress=True)
    assert "3/3" in capsys.readouterr().err
    for image, texts, result in zip(images, phrases, results):
        assert np.array_equal(result.masks, inferencer(image, texts).masks)


def test_one_phrase_may_be_a_string_and_captions_have_spans(inferencer, samples):
    image = samples[0].image
    assert inferencer(image, "the red circle").phrases == ["the red circle"]
    caption = Continuation("a red circle and a blue star", ((0, 12), (17, 28)))
    assert inferencer(image, caption).phrases == ["a red circle", "a blue star"]


def test_describe_is_the_frozen_models_answer(inferencer, samples):
    text = inferencer.describe(samples[0].image, max_new_tokens=12)
    assert isinstance(text, str)


def test_a_trained_checkpoint_is_used(inferencer, samples, tmp_path):
    head = GroundingInferencer(TINY, device="cpu").model
    with torch.no_grad():
        head.mask_head.conv_seg.bias += 3.0
    save_trainable(head, tmp_path / "head.safetensors")
    other = GroundingInferencer(TINY, tmp_path / "head.safetensors", device="cpu")
    one = inferencer(samples[0].image, "red star", return_maps=True).coarse_mask_logits
    two = other(samples[0].image, "red star", return_maps=True).coarse_mask_logits
    np.testing.assert_allclose(two - one, 3.0, atol=1e-4)


def test_mistakes_are_told_in_one_sentence(inferencer, samples, tmp_path):
    image = samples[0].image
    with pytest.raises(ValueError, match="no phrase given"):
        inferencer(image, [])
    with pytest.raises(ValueError, match=r"phrase 1 \('  '\) is blank"):
        inferencer(image, ["star", "  "])
    with pytest.raises(ValueError, match=r"'star \\ud83d' is no valid Unicode \(half of a charac"):
        inferencer(image, ["star \ud83d"])
    with pytest.raises(TypeError, match="phrase 0 is a int"):
        inferencer(image, [3])
    with pytest.raises(ValueError, match="got 2 pictures and 1 lists"):
        inferencer([image, image], [["star"]])
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        inferencer(tmp_path / "missing.png", "star")
    with pytest.raises(FileNotFoundError, match="missing_config"):
        GroundingInferencer("missing_config.py")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        GroundingInferencer(TINY, "nowhere.pth")


def test_the_way_to_a_mask_and_the_demo_import_no_mmdet():
    code = (
        "import sys, numpy as np; from flmm import GroundingInferencer;"
        "import flmm.apps.demo, flmm.training, flmm.grounder;"
        f"g = GroundingInferencer({TINY!r}, device='cpu');"
        "g(np.zeros((80, 90, 3), np.uint8), 'star');"
        "sys.exit(any(m.split('.')[0] in ('mmdet', 'mmcv') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_second_question_reads_the_picture_no_more(samples, tmp_path, monkeypatch):
    inferencer = GroundingInferencer(TINY, device="cpu")
    image, phrases, _ = samples[0]
    path = tmp_path / "picture.png"
    Image.fromarray(image).save(path)
    counts = {"prefill": 0, "encode": 0}
    for owner, name in ((inferencer.model.vlm, "prefill"), (inferencer.model.sam, "encode")):
        real = getattr(owner, name)

        def count(*args, real=real, name=name, **kwargs):
            counts[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)
    first = inferencer(path, phrases)
    second = inferencer(image, phrases[::-1])  # the same pixels by another way
    inferencer.describe(image, max_new_tokens=1)
    assert counts == {"prefill": 1, "encode": 1}
    assert np.array_equal(first.masks, second.masks[::-1])

    other, other_phrases, _ = samples[1]
    Image.fromarray(other).save(path)  # the same name, another picture
    changed = inferencer(path, other_phrases)
    assert counts == {"prefill": 2, "encode": 2}
    fresh = GroundingInferencer(TINY, device="cpu")(other, other_phrases)
    assert np.array_equal(changed.masks, fresh.masks)
