"""How the keyword selector learns: the tiny reader on captions of drawn scenes."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from torch import multiprocessing

from flmm.checkpoints.checkpoint import load_checkpoint, load_weights, save_trainable
from flmm.config import load_config
from flmm.data.samples import build_continuations, keep_phrases
from flmm.features import FeatureCache, split_phrases
from flmm.grounder import Grounder
from flmm.records import Continuation, GroundingSample
from flmm.registry import DATASETS, MODELS
from flmm.selectors.keywords import compute_keyword_figures, find_keywords
from flmm.toy.shape_captions import ShapeListDataset, write_caption, write_list
from flmm.toy.shape_files import write_dataset
from flmm.toy.shapes import render_scene
from tests.training.toy_training import train

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs/tiny/tiny_unet_sam_shapes.py"
KEYWORDS = ROOT / "configs/tiny/tiny_keywords_shapes.py"


def build_grounder(frozen: bool = False) -> Grounder:
    """The tiny grounder without refiner, whose selector has random weights."""
    config = Config.fromfile(TINY).model
    config.sam = None
    config.keyword_selector.frozen = frozen
    with torch.random.fork_rng():
        torch.manual_seed(0)
        grounder = MODELS.build(config)
        torch.nn.init.normal_(grounder.keyword_selector.linear.weight, std=0.2)
    return grounder.train()


@pytest.fixture
def grounder() -> Grounder:
    return build_grounder()


@pytest.fixture(scope="module")
def batch():
    """Pictures, and samples whose captions name single objects, groups and the background."""
    encode = build_grounder().vlm.image_processor.encode
    inputs, samples = [], []
    for seed in range(4):
        scene = render_scene(random.Random(seed), min_objects=3)
        caption = write_caption(random.Random(seed), scene)
        everywhere = np.stack([*(item.mask for item in scene.objects), scene.image[..., 0] >= 0])
        masks = np.stack([everywhere[list(item.segments)].any(0) for item in caption.mentions])
        inputs.append(encode(scene.image))
        samples.append(
            GroundingSample(
                continuations=[Continuation(caption.text, caption.spans)],
                gt_masks=torch.from_numpy(masks),
            )
        )
    return inputs, samples


@torch.no_grad()
def read_with_transformers(vlm, image, text):
    """Hidden states ``[R, D]`` after the final norm and characters of the tokens of an answer."""
    content = [{"type": "image"}, {"type": "text", "text": vlm.default_prompt}]
    rendered = vlm.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = vlm.processor(text=[rendered + text], images=[image.image], return_tensors="pt")
    offsets = vlm.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return vlm.model.model(**inputs).last_hidden_state[0, -len(offsets) :], offsets


def test_hidden_states_of_every_token_are_transformers_own(grounder, batch):
    vlm = grounder.vlm
    texts = [sample.continuations[0] for sample in batch[1]]
    together = vlm.attend(vlm.prefill(batch[0]), [[text, Continuation("a star")] for text in texts])
    for image, text, seen in zip(batch[0], texts, together):
        expected, offsets = read_with_transformers(vlm, image, text.text)
        caption, phrase = seen.hidden_states
        assert caption.shape == (len(offsets), vlm.hidden_size)
        assert (caption - expected).abs().max() < 1e-4 * expected.abs().max()
        assert torch.equal(phrase, seen.text_features[-1][-1])
        features = seen.text_features[0]  # they share memory: nothing is kept for this alone
        assert caption.untyped_storage().data_ptr() == features.untyped_storage().data_ptr()


def test_loss_recall_and_precision_are_those_of_all_tokens(grounder, batch):
    logits, truths = [], []
    selector = grounder.keyword_selector
    for image, sample in zip(*batch):
        (caption,) = sample.continuations
        states, offsets = read_with_transformers(grounder.vlm, image, caption.text)
        inside = [any(a < end and b > start for start, end in caption.spans) for a, b in offsets]
        logits.append(states @ selector.linear.weight[0] + selector.linear.bias)
        truths.append(torch.tensor(inside))
    logits, truth = torch.cat(logits), torch.cat(truths)
    assert 0.2 < truth.float().mean() < 0.8
    probs = logits.double().sigmoid()
    wanted = -torch.where(truth, probs.log(), (1 - probs).log()).mean()
    found = probs > 0.5
    figures = grounder(*batch, mode="loss")
    assert float(figures["loss_keyword"].detach()) == pytest.approx(float(wanted.detach()), 1e-4)
    right = float((found & truth).sum())
    assert float(figures["keyword_recall"]) == pytest.approx(right / float(truth.sum()))
    assert float(figures["keyword_precision"]) == pytest.approx(right / float(found.sum()))
    plain = build_grounder(frozen=True)(*batch, mode="loss")
    assert set(figures) - set(plain) == {"loss_keyword", "keyword_recall", "keyword_precision"}


def test_the_loss_trains_the_selector_alone(grounder, batch):
    grounder(*batch, mode="loss")["loss_keyword"].backward()
    touched = {name for name, value in grounder.named_parameters() if value.grad is not None}
    assert touched == {"keyword_selector.linear.weight", "keyword_selector.linear.bias"}


SENTENCES = ["the big red circle", "left star"]


@pytest.mark.parametrize("joined", [False, True])
def test_texts_of_phrases_alone_are_left_out(grounder, batch, joined):
    """RefCOCO's sentences have no word that is no name; DDP still gets a gradient, of zero."""
    continuations = build_continuations(SENTENCES, joined)
    assert all(find_keywords(item) is None for item in continuations)
    image = batch[0][0]
    sample = GroundingSample(continuations=continuations, gt_masks=batch[1][0].gt_masks[:2])
    figures = grounder([image], [sample], mode="loss")
    assert "keyword_recall" not in figures and float(figures["loss_keyword"].detach()) == 0
    figures["loss_keyword"].backward()
    assert not grounder.keyword_selector.linear.weight.grad.any()
    # Beside captions they change nothing.
    mixed = grounder([image, *batch[0]], [sample, *batch[1]], mode="loss")
    alone = grounder(*batch, mode="loss")
    assert float(mixed["loss_keyword"].detach()) == pytest.approx(
        float(alone["loss_keyword"].detach()), rel=1e-5
    )


def test_names_that_are_not_grounded_are_names_all_the_same(grounder, batch):
    """Where only some phrases of a caption are drawn, the others are no negatives."""
    caption = batch[1][0].continuations[0]
    drawn = Continuation(caption.text, caption.spans[:1], keyword_spans=caption.spans)
    assert find_keywords(drawn) == find_keywords(caption) == caption.spans
    assert find_keywords(Continuation(caption.text, caption.spans[:1])) == caption.spans[:1]
    seen = grounder.read_phrases([batch[0][0]] * 2, [[caption], [drawn]])
    figures = [
        compute_keyword_figures(grounder.keyword_selector, [one], [[item]], grounder._locate)
        for one, item in zip(seen, (caption, drawn))
    ]
    losses = [float(item["loss_keyword"].detach()) for item in figures]
    assert losses[0] == pytest.approx(losses[1])
    with pytest.raises(ValueError, match=r"phrase span \(3, 99\) of 'a cat' is empty or reaches"):
        Continuation("a cat", keyword_spans=((3, 99),))


def test_a_frozen_selector_stays_as_it_is(batch):
    grounder = build_grounder(frozen=True)
    figures = grounder(*batch, mode="loss")
    sum(value for key, value in figures.items() if "loss" in key).backward()
    assert grounder.keyword_selector.is_frozen
    assert grounder.keyword_selector.linear.weight.grad is None


@pytest.mark.parametrize(("dtype", "difference"), [("float32", 1e-6), ("float16", 1e-3)])
def test_with_the_feature_cache_the_loss_is_the_same(grounder, batch, tmp_path, dtype, difference):
    inputs, samples = batch[0], []
    for sample in batch[1]:  # a phrase of its own beside the caption
        samples.append(sample.clone())
        samples[-1].continuations = [*sample.continuations, Continuation("a star")]
        samples[-1].gt_masks = torch.cat([sample.gt_masks, sample.gt_masks[:1]])
    plain = grounder(inputs, samples, mode="loss")
    for _ in range(2):
        grounder.feature_cache = FeatureCache(tmp_path, grounder.vlm, dtype=dtype)
        cached = grounder(inputs, samples, mode="loss")
        for key in ("loss_keyword", "loss_mask"):
            gap = abs(float(cached[key].detach()) - float(plain[key].detach()))
            assert gap < difference, key
        grounder.vlm.prefill = None  # the second time the reader is not asked
    (seen,) = grounder.read_phrases(inputs[:1], [samples[0].continuations])
    assert [states is None for states in seen.hidden_states] == [False, True]
    parts = split_phrases(seen, samples[0].continuations)
    assert torch.equal(parts[0].hidden_states[0], seen.hidden_states[0])


def test_a_feature_cache_that_was_filled_without_a_selector_is_refused(batch, tmp_path):
    for frozen in (True, False):
        grounder = build_grounder(frozen)
        grounder.feature_cache = FeatureCache(tmp_path, grounder.vlm)
        if frozen:
            grounder(*batch, mode="loss")
        message = (
            r"caption 'The .*' is not in the feature cache, .*: give another feature_cache\.dir"
        )
    with pytest.raises(ValueError, match=message):
        grounder(*batch, mode="loss")


def _compute_share(rank: int, folder: Path, inputs: list, samples: list) -> None:
    """One of two processes: three samples here, one there."""
    torch.set_num_threads(1)
    torch_dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    grounder = build_grounder()
    share = slice(0, 3) if rank == 0 else slice(3, 4)
    figures = grounder(inputs[share], samples[share], mode="loss")
    figures["loss_keyword"].backward()
    gradient = grounder.keyword_selector.linear.weight.grad
    torch.save(({key: v.detach() for key, v in figures.items()}, gradient), folder / f"{rank}.pt")
    torch_dist.destroy_process_group()


def test_two_processes_average_over_all_tokens(grounder, batch, tmp_path):
    """One has more captions, and more tokens, than the other; DDP averages their gradients."""
    figures = grounder(*batch, mode="loss")
    figures["loss_keyword"].backward()
    multiprocessing.start_processes(
        _compute_share, (tmp_path, *batch), nprocs=2, start_method="fork"
    )
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for own, _ in shares:
        for key in ("loss_keyword", "keyword_recall", "keyword_precision"):
            assert float(own[key]) == pytest.approx(float(figures[key].detach()), rel=1e-5), key
    gradient = (shares[0][1] + shares[1][1]) / 2
    torch.testing.assert_close(
        gradient, grounder.keyword_selector.linear.weight.grad, rtol=1e-4, atol=1e-6
    )


def test_a_checkpoint_holds_it_and_one_without_it_is_refused(grounder, tmp_path):
    save_trainable(grounder, tmp_path / "with.safetensors")
    other = build_grounder(frozen=True)
    torch.nn.init.zeros_(other.keyword_selector.linear.weight)
    load_weights(other, tmp_path / "with.safetensors")
    weight = grounder.keyword_selector.linear.weight
    assert torch.equal(other.keyword_selector.linear.weight, weight) and weight.any()
    older = {k: v for k, v in grounder.state_dict().items() if "keyword" not in k}
    torch.save({"state_dict": older}, tmp_path / "older.pth")
    with pytest.raises(ValueError, match=r"missing: keyword_selector\.linear\.weight \[1, 192\]"):
        load_weights(other, tmp_path / "older.pth")
    config = Config.fromfile(TINY).model
    config.sam = config.keyword_selector = None
    with pytest.raises(ValueError, match=r"unexpected: keyword_selector\.linear\.bias"):
        load_weights(MODELS.build(config), tmp_path / "with.safetensors")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("keywords") / "shapes"
    write_dataset(folder, num_images=8, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLMM_DATA_ROOT", str(folder))
        yield folder


def test_the_tiny_config_trains_the_selector_and_nothing_else(data_root, tmp_path):
    loaders = {"num_workers": 0, "persistent_workers": False, "batch_size": 2}
    options = {f"train_dataloader.{key}": value for key, value in loaders.items()}
    options |= {"train_cfg.max_iters": 2, "train_cfg.val_interval": 9, "val_cfg": None}
    options |= {"val_dataloader": None, "val_evaluator": None}
    options |= {"default_hooks.checkpoint.interval": 2, "default_hooks.logger.interval": 1}
    train(KEYWORDS, str(tmp_path), options)
    before, after = (
        load_checkpoint(name)["state_dict"] for name in ("tiny", tmp_path / "iter_2.pth")
    )
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert before.keys() == after.keys()
    assert changed == {"keyword_selector.linear.weight", "keyword_selector.linear.bias"}


def test_narratives_say_all_their_names_where_few_are_drawn(data_root):
    cfg = load_config(KEYWORDS).train_dataloader.dataset.datasets[0]
    every, drawn = (DATASETS.build({**cfg, "max_phrases": count}) for count in (None, 1))
    wanted = [every.build_record(index)["continuations"][0] for index in range(len(every))]
    assert max(len(item.spans) for item in wanted) > 1
    for index, item in enumerate(wanted):
        record = drawn.build_record(index)
        (found,) = record["continuations"]
        assert len(found.spans) == 1 and find_keywords(found) == item.spans
        assert keep_phrases(record, [True])["continuations"] == [found]


def test_lists_of_drawn_objects_are_what_the_tiny_reader_learned_to_write():
    for seed in range(30):
        scene = render_scene(random.Random(seed))
        text, spans, order = write_list(random.Random(seed), scene)
        assert sorted(order) == list(range(len(scene.objects)))
        for span, index in zip(spans, order, strict=True):
            item, name = scene.objects[index], text[slice(*span)]
            assert name in (f"{item.size} {item.color} {item.shape}", f"{item.color} {item.shape}")
            assert re.match(r" (top|middle|bottom) ", text[span[1] :])


def test_the_data_set_of_lists_gives_a_mask_for_each_name():
    processor = {"type": "QwenImageProcessorWrapper", "processor": "tiny"}
    dataset = ShapeListDataset(num_scenes=5, seed=3, image_processor=processor)
    again = ShapeListDataset(num_scenes=5, seed=3, image_processor=processor)
    other = ShapeListDataset(num_scenes=5, seed=4, image_processor=processor)
    assert len(dataset) == 5
    for index in range(5):
        image, sample = dataset[index]["inputs"], dataset[index]["data_samples"]
        assert sample.gt_masks.shape == (len(sample.phrases), *image.original_size)
        assert sample.gt_masks.flatten(1).any(1).all() and sample.gt_masks.sum(0).max() == 1
        assert find_keywords(sample.continuations[0]) == sample.continuations[0].spans
        assert np.array_equal(again[index]["inputs"].image, image.image)
        theirs = other[index]["inputs"].image
        assert theirs.shape != image.image.shape or not np.array_equal(theirs, image.image)
