"""The evaluation loop on the tiny model: protocols, interruptions, order, predictions."""

import collections
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoModelForImageTextToText, AutoProcessor

from flmm.checkpoints.checkpoint import load_weights
from flmm.config import load_config
from flmm.data.samples import ask_first_sentences_joined
from flmm.evaluation.evaluating import EvaluationSplit, evaluate_split
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.evaluation.evaluation_runs import run_png_evaluation, run_refcoco_evaluation
from flmm.geometry import resize_maps
from flmm.head_choice import HeadChoice
from flmm.readers.families.base import DEFAULT_PROMPT
from flmm.readers.loading import TINY_FOLDER
from flmm.records import GroundingSample, as_continuations
from flmm.registry import DATASETS, MODELS
from flmm.toy.shape_files import write_dataset
from flmm.training.runner import run_test

TINY = "configs/tiny/tiny_unet_sam_shapes.py"
IMAGES = 4
OTHERS_HEADS = HeadChoice(((1, 1),), 9, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "shapes"
    write_dataset(folder, num_images=80, seed=11)
    return folder


@pytest.fixture(scope="module")
def model():
    model = MODELS.build(load_config(TINY).model)
    load_weights(model, "tiny")
    return model.eval()


def build_dataset(folder, **changes):
    cfg = load_config(TINY, {"data_root": str(folder)}).test_dataloader.dataset
    return DATASETS.build({**cfg, "split": "val", "text_mode": "all", "test_mode": True, **changes})


def evaluate(model, folder, journal, limit=IMAGES, **kwargs):
    split = EvaluationSplit("shapes", "val", build_dataset(folder), ["standard", "flmm"], limit)
    (result,) = evaluate_split({"trained": model}, split, journal, **kwargs)
    return result


@pytest.fixture(scope="module")
def result(model, folder, tmp_path_factory):
    journal = tmp_path_factory.mktemp("journal")
    return evaluate(model, folder, journal, save_predictions=True)


def rewrite_refs(folder, target, change):
    """A copy of the data set whose refs went through ``change``."""
    shutil.copytree(folder, target)
    path = target / "refs(unc).p"
    refs = change(pickle.loads(path.read_bytes()))
    path.write_bytes(pickle.dumps(refs, protocol=2))
    return target


def by_id(scores):
    return {score.expression_id: score for score in scores}


def test_every_sentence_is_scored_once_and_flmm_asks_the_first_ones(result, folder):
    dataset = build_dataset(folder)
    refs = [ref for index in range(IMAGES) for ref in dataset.get_data_info(index)["refs"]]
    ids = [score.expression_id for score in result.scores["standard"]]
    assert ids == [sentence[1] for ref in refs for sentence in ref]
    assert [score.expression_id for score in result.scores["flmm"]] == [ref[0][1] for ref in refs]
    assert result.images == IMAGES and result.computed == len(ids) + len(refs)
    assert not result.skipped


def test_standard_does_not_depend_on_order_or_on_other_expressions(model, folder, result, tmp_path):
    def thin_out(refs):
        return [{**ref, "sentences": ref["sentences"][::-2]} for ref in refs[::-1]]

    changed = rewrite_refs(folder, tmp_path / "changed", thin_out)
    other = evaluate(model, changed, tmp_path / "journal", limit=None)
    whole = evaluate(model, folder, tmp_path / "whole", limit=None)
    expected = by_id(whole.scores["standard"])
    assert 0 < len(other.scores["standard"]) < len(expected)
    for score in other.scores["standard"]:
        assert score == expected[score.expression_id]
    # The other protocol does depend on them: the test can fail.
    joined = by_id(whole.scores["flmm"])
    assert any(score != joined.get(score.expression_id) for score in other.scores["flmm"])


def test_flmm_equals_one_joined_eager_pass(model, folder, result):
    processor = AutoProcessor.from_pretrained(TINY_FOLDER)
    eager = AutoModelForImageTextToText.from_pretrained(
        TINY_FOLDER, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    item = build_dataset(folder)[0]
    image, sample = item["inputs"], item["data_samples"]
    firsts = [sample.ref_ids.index(ref_id) for ref_id in dict.fromkeys(sample.ref_ids)]
    phrases = [sample.phrases[row] for row in firsts]
    assert len(phrases) > 1
    text = " ".join(f"{phrase}." for phrase in phrases)
    content = [{"type": "image"}, {"type": "text", "text": DEFAULT_PROMPT}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=[prompt + text], images=[image.image], return_tensors="pt")
    with torch.no_grad():
        output = eager(**inputs, output_attentions=True, output_hidden_states=True)
    attentions = torch.cat(output.attentions, 1)[0]
    hidden_states = torch.cat(output.hidden_states[1:])
    ids = inputs["input_ids"][0]
    columns = ids == eager.config.image_token_id
    grid = inputs["image_grid_thw"][0, 1:] // 2

    # Which tokens a phrase has: those of the text up to its end, less those up to its start.
    def count_tokens(part):
        return len(processor.tokenizer(part)["input_ids"])

    start_of_text = len(ids) - count_tokens(text)
    maps, features, end = [], [], 0
    for phrase in phrases:
        start = text.index(phrase, end)
        end = start + len(phrase)
        first = start_of_text + count_tokens(text[:start].rstrip())
        rows = slice(first, start_of_text + count_tokens(text[:end]))
        maps.append(attentions[:, rows][..., columns].mean(1).unflatten(-1, tuple(grid)))
        features.append(hidden_states[:, rows])
    with torch.no_grad():
        coarse = model.mask_head(torch.stack(maps))[:, 0]
        words = model._embed_text(features, torch.device("cpu"))
        (encoding,) = model.sam.encode([image.image])
        refined = model.sam.refine(encoding, coarse, words) > 0
    coarse_masks = resize_maps(coarse, image.original_size) > 0
    scores = by_id(result.scores["flmm"])
    for row, one, other in zip(firsts, refined, coarse_masks):
        truth = sample.gt_masks[row]
        expected = [(int((m & truth).sum()), int((m | truth).sum())) for m in (one, other)]
        score = scores[sample.expression_ids[row]]
        assert np.abs(np.subtract([score.refined, score.coarse], expected)).max() <= 1


def test_an_interrupted_run_goes_on_where_it_stopped(model, folder, result, tmp_path):
    part = evaluate(model, folder, tmp_path, limit=2, save_predictions=True)
    assert part.images == 2
    with (tmp_path / "rank0.jsonl").open("a") as file:
        file.write('[2, {"standard": {"sco')  # killed while it wrote
    other_rank = tmp_path / "rank5.jsonl"  # of an earlier run on more processes
    lines = (tmp_path / "rank0.jsonl").read_text().splitlines()
    other_rank.write_text(lines.pop(0) + "\n")
    (tmp_path / "rank0.jsonl").write_text("\n".join(lines))
    whole = evaluate(model, folder, tmp_path, save_predictions=True)
    assert whole.scores == result.scores
    assert whole.predictions == result.predictions
    assert whole.computed == result.computed - part.computed
    again = evaluate(model, folder, tmp_path, save_predictions=True)
    assert again.scores == result.scores and again.computed == 0


@pytest.mark.heavy
def test_one_by_one_gives_the_same_figures(model, folder, result, tmp_path):
    slow = evaluate(model, folder, tmp_path, save_predictions=True, one_by_one=True)
    assert slow.scores == result.scores
    assert slow.problems == result.problems


def test_images_that_are_read_together_give_the_same_figures(model, folder, result, tmp_path):
    batch = evaluate(model, folder, tmp_path, save_predictions=True, batch_size=3)
    for protocol, scores in batch.scores.items():
        expected = by_id(result.scores[protocol])
        assert [score.expression_id for score in scores] == list(expected)
        for score in scores:  # padding may move a logit in its last bit
            other = expected[score.expression_id]
            assert np.abs(np.subtract(score.refined, other.refined)).max() <= 1
            assert np.abs(np.subtract(score.coarse, other.coarse)).max() <= 1
    lines = (tmp_path / "rank0.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rank0.jsonl").write_text("".join(lines[1:3]))  # of both batches one is left
    again = evaluate(model, folder, tmp_path, save_predictions=True, batch_size=3)
    assert again.scores == batch.scores


def test_saved_predictions_give_the_same_figures(result, folder):
    dataset = build_dataset(folder)
    truths, phrases = {}, {}
    for index in range(IMAGES):
        sample = dataset[index]["data_samples"]
        for row, key in enumerate(sample.expression_ids):
            truths[key], phrases[key] = sample.gt_masks[row].numpy(), sample.phrases[row]
    for protocol, scores in result.scores.items():
        assert len(scores) == len(result.predictions[protocol])
        for score, record in zip(scores, result.predictions[protocol]):
            key = record["expression_id"]
            mask = coco_mask.decode(record["segmentation"]).astype(bool)
            both, either = (mask & truths[key]).sum(), (mask | truths[key]).sum()
            assert (key, score.refined) == (score.expression_id, (both, either))
            assert record["expression"] == phrases[key]
            assert record["bbox"] == coco_mask.toBbox(record["segmentation"]).tolist()
    json.dumps(result.predictions)


def test_refs_are_asked_once_even_when_they_are_not_neighbours():
    sample = GroundingSample(metainfo={"ref_ids": [4, 7, 4, 9, 7]})
    sample.continuations = as_continuations(["a", "b", "c", "d", "e"])
    question = ask_first_sentences_joined(sample)
    assert question.rows == [0, 1, 3]
    assert [text.text for text in question.continuations] == ["a. b. d."]
    assert question.continuations[0].phrases == ["a", "b", "d"]


def evaluate_config(folder, tmp_path, cfg_options=None, limit=1, **options):
    config = load_config(
        TINY, {"data_root": str(folder), **(cfg_options or {})}, work_dir=str(tmp_path)
    )
    return run_refcoco_evaluation(config, EvaluationOptions(num_workers=0, limit=limit, **options))


def test_a_changed_setting_starts_anew(folder, tmp_path):
    journals = tmp_path / "eval_refcoco" / "journal"
    evaluate_config(folder, tmp_path, splits=["val"])
    first = set(journals.iterdir())
    evaluate_config(folder, tmp_path, splits=["val"])
    assert set(journals.iterdir()) == first
    evaluate_config(folder, tmp_path, {"model.model.prompt": "Look."}, splits=["val"])
    assert len(set(journals.iterdir())) == 2
    line = (next(iter(first)) / "rank0.jsonl").read_text()
    evaluate_config(folder, tmp_path, splits=["val"], restart=True)
    assert (next(iter(first)) / "rank0.jsonl").read_text() == line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baseline": ["both"], "heads": OTHERS_HEADS}, "the heads were chosen for a reader of 9"),
        ({"datasets": ["refcoco"]}, "--datasets refcoco: the config has shapes"),
        ({"splits": ["test"]}, "--splits test: no chosen data set has such a split"),
        (
            {"checkpoint": "tiny", "baseline": ["box"], "baseline_only": True},
            "--baseline-only measures no trained head: leave CHECKPOINT out",
        ),
        ({"baseline_only": True}, "--baseline-only leaves nothing to measure: name ways"),
        ({"baseline": ["both"]}, "'both' needs to know which heads point: .* and give --heads"),
    ],
)
def test_a_wrong_choice_names_the_right_ones(folder, tmp_path, options, words):
    if "heads" in options:
        options = {**options, "heads": options["heads"].save_json(tmp_path / "heads.json")}
    with pytest.raises(ValueError, match=words):
        evaluate_config(folder, tmp_path, **options)


def test_missing_files_are_listed_before_anything_is_built(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        evaluate_config(tmp_path / "nowhere", tmp_path)
    for name in ("instances.json", "refs(unc).p", "data_root", "docs/data.md"):
        assert name in str(error.value)


def test_the_report_says_where_its_figures_come_from(folder, tmp_path):
    report = evaluate_config(folder, tmp_path, protocols=["flmm"], splits=["val", "testA"])
    assert [(row["split"], row["protocol"], row["mask"]) for row in report["rows"]][:2] == [
        ("val", "flmm", "refined"),
        ("val", "flmm", "coarse"),
    ]
    run = report["run"]
    assert run["weights"].startswith("weights: the embedded toy head 'tiny' (sha256 ")
    assert run["checkpoint"] == "tiny" and len(run["sha256"]) == 64 and run["seed"] == 0
    assert run["versions"]["torch"] == torch.__version__
    path = tmp_path / "eval_refcoco" / "eval_refcoco.json"
    assert json.loads(path.read_text()) == report
    markdown = Path(path).with_suffix(".md").read_text()
    assert run["sha256"] in markdown and "| shapes | testA | flmm | coarse |" in markdown


@pytest.fixture
def damaged(folder, tmp_path):
    """The data set with an unreadable picture, a blank sentence and an empty true mask."""

    def blank_a_sentence(refs):
        val = [ref for ref in refs if ref["split"] == "val"]
        next(ref for ref in val if ref["image_id"] != val[0]["image_id"])["sentences"][0]["raw"] = (
            " "
        )
        return refs

    target = rewrite_refs(folder, tmp_path / "damaged", blank_a_sentence)
    dataset = build_dataset(folder)
    broken, emptied = dataset.get_data_info(0), dataset.get_data_info(2)
    path = target / "images" / Path(broken["img_path"]).name
    path.write_bytes(path.read_bytes()[:100])
    instances = json.loads((target / "instances.json").read_text())
    for annotation in instances["annotations"]:
        if annotation["image_id"] == emptied["image_id"]:
            annotation["segmentation"] = []
    (target / "instances.json").write_text(json.dumps(instances))
    return target, path, dataset


def test_expressions_that_cannot_be_used_are_in_the_table(damaged, tmp_path):
    target, path, dataset = damaged
    report = evaluate_config(target, tmp_path, splits=["val"], limit=None)
    refs = [ref for index in range(len(dataset)) for ref in dataset.get_data_info(index)["refs"]]
    broken = [sentence for ref in dataset.get_data_info(0)["refs"] for sentence in ref]
    row = report["rows"][0]
    assert row["skipped"] == len(broken) + 1 == len(report["skipped"])
    assert row["expressions"] + row["skipped"] == sum(map(len, refs))
    assert row["empty_truths"] == sum(map(len, dataset.get_data_info(2)["refs"]))
    reasons = " ".join(item["reason"] for item in report["skipped"])
    assert path.name in reasons and "blank" in reasons
    markdown = (tmp_path / "eval_refcoco" / "eval_refcoco.md").read_text()
    assert "Skipped expressions" in markdown and path.name in markdown
    # The same figures without these records: skipping changes nothing else.
    good = evaluate_config(dataset.data_root, tmp_path / "good", splits=["val"], limit=None)
    assert good["rows"][0]["expressions"] == sum(map(len, refs))


def test_bad_records_stop_where_that_is_asked_for(damaged, tmp_path):
    target, path, _ = damaged
    with pytest.raises(ValueError, match=path.name):
        evaluate_config(target, tmp_path, splits=["val"], bad_records="stop")


def test_a_baseline_without_readable_boxes_is_counted_and_told(folder, tmp_path):
    weightless = {"weights": None}
    report = evaluate_config(folder, tmp_path, weightless, splits=["val"], baseline=["box"])
    row, coarse = [row for row in report["rows"] if row["group"] == "all"]
    assert row["way"] == "box" and coarse["cIoU"] == row["cIoU"] == 0
    assert row["no_box"] == row["expressions"] == len(report["problems"]) > 0
    assert "no readable box" in report["problems"][0]["reason"]
    assert report["run"]["ways"] == ["box"] and "sha256" not in report["run"]


def test_rows_of_one_table_come_from_one_pass(folder, tmp_path):
    """Each row's figures are those of a run of its own, and those of a run that was broken off."""
    heads = HeadChoice(((3, 1), (4, 2)), 5, 6).save_json(tmp_path / "heads.json")
    options = {"splits": ["val"], "heads": str(heads), "save_predictions": True, "batch_size": 1}

    def tell_figures(report):
        kept = [dict(row, expressions_per_second=None) for row in report["rows"]]
        return {way: [row for row in kept if row["way"] == way] for way in report["run"]["ways"]}

    seen = collections.Counter()
    hook = register_module_forward_hook(lambda module, *_: seen.update([type(module).__name__]))
    baseline = ["attention", "box", "both"]
    work = tmp_path / "all"
    report = evaluate_config(folder, work, baseline=baseline, limit=2, **options)
    hook.remove()
    assert seen["ImageEncoderViT"] == seen["Qwen2_5_VisionTransformerPretrainedModel"] == 2
    together = tell_figures(report)
    assert list(together) == ["trained", *baseline]
    alone = evaluate_config(folder, tmp_path / "alone", limit=2, **options)
    assert together["trained"] == tell_figures(alone)["trained"]
    assert together["trained"][0]["cIoU"] > together["attention"][0]["cIoU"] > 0
    for way in ("attention", "both"):
        own = {"baseline": [way], "baseline_only": True, "limit": 2, **options}
        assert tell_figures(evaluate_config(folder, tmp_path / way, **own))[way] == together[way]
        masks = "eval_refcoco/{}/shapes_val_standard.json"
        kept = (work / masks.format(f"predictions_{way}")).read_text()
        assert kept == (tmp_path / way / masks.format("predictions")).read_text()
    (journal,) = (work / "eval_refcoco" / "journal").glob("*/rank0.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[1][:50])
    again = evaluate_config(folder, work, baseline=baseline, limit=2, **options)
    assert tell_figures(again) == together and again["problems"] == report["problems"]
    assert {item["way"] for item in report["problems"]} == {"box", "both"}


def test_png_tool_and_metric_agree(folder, tmp_path):
    config_path = "configs/tiny/tiny_png_shapes.py"
    options = {"data_root": str(folder)}
    config = load_config(config_path, options, work_dir=str(tmp_path / "tool"))
    report = run_png_evaluation(config, EvaluationOptions(num_workers=0))
    by_group = {row["group"]: row for row in report["rows"] if row["mask"] == "refined"}
    assert set(by_group) == {"all", "singulars", "plurals", "things", "stuff"}
    options |= {"test_dataloader.num_workers": 0}
    metrics = run_test(load_config(config_path, options, work_dir=str(tmp_path / "test")))
    assert by_group["all"]["average_recall"] == metrics["average_recall"]
    assert by_group["all"]["accuracy@0.5"] == metrics["accuracy@0.5"]
    for group in ("singulars", "plurals", "things", "stuff"):
        assert by_group[group]["average_recall"] == metrics[f"average_recall/{group}"]
    assert by_group["things"]["average_recall"] > 30
