"""Presence: the rule, how it is made and measured, and what a grounder does with it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config

from flmm import GroundingInferencer
from flmm.evaluation.instance_counts import count_instances, format_counts
from flmm.evaluation.presence_calibration import calibrate, collect_examples
from flmm.evaluation.presence_figures import compute_auc, compute_reliability, measure_presence
from flmm.grounder import ground_parts
from flmm.presence import (
    MAP_FEATURES,
    PresenceRule,
    attend_and_ask,
    compute_features,
    load_presence_weights,
)
from flmm.records import Continuation, GroundingSample, PhraseAttention
from flmm.registry import MODELS
from flmm.sharing import save_pretrained
from flmm.toy.shape_expressions import ShapeExpressionDataset
from flmm.toy.shape_sentences import render_samples

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
LAYERS, HEADS, WIDTH = 3, 2, 5


def draw_attention(phrases=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(phrases, LAYERS * HEADS, 4, 5, generator=generator) ** 6 / 20
    features = [torch.randn(LAYERS, n + 1, WIDTH, generator=generator) for n in range(phrases)]
    return PhraseAttention([maps], features, [])


def draw_rule(layers=LAYERS, **changes):
    rng = np.random.default_rng(1)
    sizes = dict.fromkeys(MAP_FEATURES, layers * HEADS) | {"words": WIDTH}
    weights = {name: rng.normal(size=size).tolist() for name, size in sizes.items()}
    fields = {"bias": 0.3, "weights": weights, "layers": layers, "num_heads": HEADS}
    return {**fields, "token_merge": "mean", **changes}


def compute_slowly(maps, words):
    """The features of one phrase in plain numpy: maps ``[C, h, w]``, words ``[T, D]``."""
    maps = [own.astype(np.float64) / own.sum() for own in maps], [own for own in maps]
    mean = np.mean(maps[0], axis=0)
    return {
        "share": [math.log(own.sum()) for own in maps[1]],
        "entropy": [-(own * np.log(own + 1e-9)).sum() / math.log(own.size) for own in maps[0]],
        "agreement": [
            (own * mean).sum() / math.sqrt((own**2).sum() * (mean**2).sum()) for own in maps[0]
        ],
        "peak": [math.log(own.max()) for own in maps[1]],
        "words": words[-1],
    }


@pytest.mark.parametrize("layers", [LAYERS, 2])
def test_the_rule_is_the_logistic_of_slow_features(layers):
    seen, rule = draw_attention(), draw_rule(layers)
    found = compute_features(seen, layers, HEADS)
    presence = PresenceRule(rule)(seen)
    for row, (maps, own) in enumerate(zip(seen.maps.numpy(), seen.text_features)):
        slow = compute_slowly(maps[: layers * HEADS], own[layers - 1].numpy())
        odds = rule["bias"]
        for name, values in slow.items():
            np.testing.assert_allclose(found[name][row], values, rtol=1e-4, atol=1e-5)
            odds += np.dot(rule["weights"][name], values)
        assert float(presence[row]) == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-3)
    assert PresenceRule(rule)(draw_attention(0)).shape == (0,)


def test_a_rule_is_kept_as_json_and_what_is_none_is_refused(tmp_path):
    kept = PresenceRule(draw_rule()).rule
    path = kept.save_json(tmp_path / "rule.json")
    assert load_presence_weights(path) == kept == load_presence_weights(dataclasses.asdict(kept))
    with pytest.raises(FileNotFoundError, match=r"no.json does not exist: make one with tools/cal"):
        PresenceRule(tmp_path / "no.json")
    broken = {
        "cut": "{",
        "other fields": json.dumps({"heads": []}),
        "no number": json.dumps(draw_rule(bias=math.nan)),
        "unknown feature": json.dumps(draw_rule(weights={"luck": [1.0]})),
        "no feature": json.dumps(draw_rule(weights={})),
        "a list": "[1]",
    }
    for text in broken.values():
        path.write_text(text)
        with pytest.raises(ValueError, match=r"rule.json is no presence rule \(.*\): make one"):
            PresenceRule(path)


def test_auc_and_calibration_error_equal_slow_definitions():
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.6
    probs = np.round(np.clip(0.5 + 0.2 * labels + rng.normal(size=200) / 4, 0, 1), 1)  # with ties
    given = torch.tensor(probs), torch.tensor(labels)
    pairs = probs[labels][:, None] - probs[~labels]
    assert compute_auc(*given) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    figures = measure_presence(*given, 0.55)
    assert figures["N-acc"] == pytest.approx((probs[~labels] < 0.55).mean())
    assert figures["T-acc"] == pytest.approx((probs[labels] >= 0.55).mean())
    error = 0
    for low in range(10):
        own = np.minimum((probs * 10).astype(int), 9) == low
        if own.any():
            error += own.mean() * abs(probs[own].mean() - labels[own].mean())
    assert figures["ECE"] == pytest.approx(error)
    assert compute_reliability(*given)[:, 2].sum() == 200
    assert measure_presence(*given[:1], given[1], 0)["T-acc"] == 1


@pytest.fixture(scope="module")
def grounder():
    return GroundingInferencer("tiny", device="cpu").model


def test_drawn_expressions_say_how_many_objects_they_mean(grounder):
    processor = grounder.vlm.image_processor
    dataset = ShapeExpressionDataset(num_scenes=4, seed=5, image_processor=processor)
    counts = []
    for item in dataset:
        sample = item["data_samples"]
        assert len(sample.phrases) == len(sample.gt_masks) == len(sample.expression_groups)
        assert sample.gt_masks.flatten(1).any(1).tolist() == [n > 0 for n in sample.object_counts]
        counts += sample.object_counts
    assert {0, 1, 2} <= set(counts)
    present = ShapeExpressionDataset(4, 5, absent=False, image_processor=processor)
    asked = [count for item in present for count in item["data_samples"].object_counts]
    assert asked == [count for count in counts if count]
    found = count_instances(grounder, dataset)
    assert sorted(true for true, _ in found.elements()) == sorted(counts)
    with pytest.raises(ValueError, match=r"picture .* does not say how many objects"):
        count_instances(grounder, [{"inputs": 1, "data_samples": GroundingSample()}])


def test_counts_are_told_right_fewer_and_more():
    table = format_counts({(1, 1): 3, (1, 2): 1, (2, 2): 1, (2, 1): 1, (3, 3): 2, (0, 1): 5})
    rows = {line[:10].strip(): line[10:].split() for line in table.splitlines()}
    assert rows["1"] == ["75.00", "0.00", "25.00", "4"]
    assert rows["2 and more"] == ["75.00", "25.00", "0.00", "4"] and rows["0"][2] == "100.00"


@pytest.fixture(scope="module")
def samples(grounder):
    """Drawn pictures, each with its own phrases and one without a mask."""
    found = []
    for number, sample in enumerate(render_samples(8, seed=3)):
        phrases = [*sample.phrases, f"the object number {number}"]
        masks = np.concatenate([sample.masks, np.zeros_like(sample.masks[:1])])
        truth = GroundingSample(
            continuations=[Continuation(text) for text in phrases], gt_masks=torch.tensor(masks)
        )
        image = grounder.vlm.image_processor.encode(sample.image)
        found.append({"inputs": image, "data_samples": truth})
    return found


def test_a_rule_is_made_of_a_labelled_set_and_says_what_it_is_worth(grounder, samples, tmp_path):
    examples = collect_examples(grounder.vlm, samples)
    assert len(examples.labels) == sum(len(item["data_samples"].phrases) for item in samples)
    assert int((~examples.labels).sum()) == len(samples)
    few = {name: examples.features[name] for name in ("share", "entropy", "peak")}
    examples = dataclasses.replace(examples, features=few)
    made = calibrate(grounder.vlm, examples, examples, ["share", "entropy"], "scenes")
    assert set(made.weights.weights) == {"share", "entropy"} and made.weights.source == "scenes"
    rule = PresenceRule(dataclasses.asdict(made.weights))
    rule.check(grounder.vlm)
    truth = samples[0]["data_samples"]
    seen = grounder.vlm.attend(grounder.vlm.prefill(samples[0]["inputs"]), truth.continuations)
    expected = made.probs[: len(truth.phrases)].float()
    torch.testing.assert_close(rule(seen), expected, rtol=1e-3, atol=1e-4)
    # Nonsense is told apart at once.
    assert list(made.rows.values())[-1]["AUC"] > 0.9
    table = made.format_table()
    assert "all of the maps" in table and "AUC %" in table and "8 absent" in table
    assert made.save_plot(tmp_path / "plots" / "reliability.png").stat().st_size > 1000


def test_phrases_of_other_pictures_serve_as_absent_ones(grounder, samples):
    present = []
    for item in samples[:4]:
        truth = item["data_samples"]
        kept = GroundingSample(continuations=truth.continuations[:-1], gt_masks=truth.gt_masks[:-1])
        present.append({"inputs": item["inputs"], "data_samples": kept})
    with pytest.raises(ValueError, match=r"0 are absent: .* or --strangers to ask those of other"):
        collect_examples(grounder.vlm, present)
    examples = collect_examples(grounder.vlm, present, strangers=2)
    assert examples.kinds.count("stranger") == int((~examples.labels).sum()) == 6  # not the first
    with pytest.raises(ValueError, match="no feature 'luck': choose of share"):
        calibrate(grounder.vlm, examples, names=["luck"])


@torch.no_grad()
def test_below_the_threshold_nothing_is_foreground_outside_of_training(grounder, samples):
    image, continuations = samples[0]["inputs"], samples[0]["data_samples"].continuations
    weights = {"share": np.linspace(-0.2, 0.3, grounder.vlm.num_maps).tolist()}
    rule = draw_rule(5, num_heads=6, weights=weights)
    before = grounder.presence_rule, grounder.presence_threshold
    plain = grounder.ground(image, continuations)
    try:
        grounder.presence_rule = PresenceRule(rule)
        judged = grounder.ground(image, continuations)
        assert torch.equal(judged.refined_mask_logits, plain.refined_mask_logits)
        seen = grounder.read_phrases([image], [continuations])[0]
        torch.testing.assert_close(judged.presence, grounder.presence_rule(seen))
        grounder.presence_threshold = float(judged.presence.median())
        (result,) = grounder.predict_images([image], [[continuations]])[0]
        absent = judged.presence.numpy() < grounder.presence_threshold
        assert 0 < absent.sum() < len(absent)
        np.testing.assert_allclose(result.presence, judged.presence, rtol=1e-4)
        for item, gone, logits in zip(result, absent, plain.refined_mask_logits):
            assert item.is_empty if gone else np.array_equal(item.mask, logits.numpy() > 0)
        trained = grounder.train().ground(image, continuations)
        assert trained.presence is None and trained.refined_mask_logits.isfinite().all()
    finally:
        grounder.eval()
        grounder.presence_rule, grounder.presence_threshold = before


@torch.no_grad()
def test_the_readers_own_word_is_what_transformers_says(grounder, samples):
    vlm, image = grounder.vlm, samples[0]["inputs"]
    continuations = samples[0]["data_samples"].continuations
    phrases = [item.text for item in continuations]
    prefix = vlm.prefill(image)
    (seen,) = attend_and_ask(vlm, [prefix], [continuations])
    plain = vlm.attend(prefix, continuations)
    torch.testing.assert_close(seen.maps, plain.maps)
    assert [len(own) for own in seen.input_ids] == [len(own) for own in plain.input_ids]
    assert len(seen.text_features) == len(seen.hidden_states) == len(phrases)
    ids = {word: vlm.tokenizer.encode(word)[0] for word in ("yes", "Yes", "no", "No")}
    for phrase, odds in zip(phrases, seen.yes_odds):
        text = f"{vlm.render_prompt()}Is there {phrase} in the picture? Answer yes or no:"
        inputs = vlm.processor(images=[image.image], text=[text], return_tensors="pt")
        scores = vlm.model(**inputs).logits[0, -1]
        yes, no = (scores[[ids[word], ids[word.title()]]].logsumexp(0) for word in ("yes", "no"))
        assert float(odds) == pytest.approx(float(yes - no), abs=1e-3)
    rule = {**draw_rule(5, num_heads=6), "weights": {"yes": [2.0]}}
    before = grounder.presence_rule
    try:
        grounder.presence_rule = PresenceRule(rule)
        judged = grounder.ground(image, continuations).presence
        torch.testing.assert_close(judged, (2 * seen.yes_odds + 0.3).sigmoid())
        (unasked,) = ground_parts(grounder, image, plain, grounder.encode_images([image])[0])
        assert unasked.presence is None  # words of a conversation are not asked about
    finally:
        grounder.presence_rule = before
    examples = collect_examples(vlm, samples[:2], ask=True)
    assert examples.features["yes"].shape == (len(examples.labels), 1)


def test_a_rule_of_another_reader_or_other_rows_is_refused(grounder):
    message = r"made with another reader and token_merge 'mean', this reader has 5 layers x 6 heads"
    with pytest.raises(ValueError, match=message):
        PresenceRule(draw_rule()).check(grounder.vlm)
    fits = draw_rule(num_heads=6, weights={"share": [0.1] * 18})
    PresenceRule(fits).check(grounder.vlm)
    for changes in ({"token_merge": "max"}, {"layers": 6}, {"weights": {"share": [0.1] * 17}}):
        with pytest.raises(ValueError, match=r"or give presence=None"):
            PresenceRule({**fits, **changes}).check(grounder.vlm)


def test_the_toy_knows_what_its_picture_has_not():
    options = {"model.presence_threshold": 0.5}
    strict = GroundingInferencer("tiny", device="cpu", cfg_options=options)
    result = strict("docs/images/scene.png", ["the red triangle", "the purple ring"])
    assert result.presence[0] > 0.5 > result.presence[1]
    assert not result[0].is_empty and result[1].is_empty and result.scores[1] == 0


def test_a_threshold_needs_a_rule_and_a_share():
    config = Config.fromfile(TINY).model
    for changes in ({"presence": None}, {"presence_threshold": 1.5}):
        given = {**config, "presence_threshold": 0.5, **changes}
        with pytest.raises(
            ValueError, match=r"presence_threshold is .*: give a number in \[0, 1\]"
        ):
            MODELS.build(given)


def test_a_shared_head_takes_its_rule_along(grounder, tmp_path):
    rule = draw_rule(5, num_heads=6, weights={"share": np.linspace(-1, 1, 30).tolist()})
    path = load_presence_weights(rule).save_json(tmp_path / "rule.json")
    config = Config.fromfile(TINY)
    config.model.presence = {"type": "PresenceRule", "rule": str(path)}
    config.model.presence_threshold = 0.25
    model = MODELS.build(config.model)
    save_pretrained(model, config, tmp_path / "head")
    path.unlink()
    again = GroundingInferencer(tmp_path / "head", device="cpu").model
    assert again.presence_rule.rule == model.presence_rule.rule
    assert again.presence_threshold == 0.25
