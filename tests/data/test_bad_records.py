"""Records that cannot be used: which one, why, and what is done about it."""

import json
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from flmm.data.grounding_dataset import BadRecordError, MissingFileError
from flmm.readers.prompts import PlainTextTokenizer
from tests.data.conftest import SIZES, make_annotations, make_ref, make_refs

WAY_OUT = "repair it, or set bad_records='skip' to leave such records out"


class Messages(logging.Handler):
    """What mmengine's logger is told, as (level, text)."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((record.levelno, record.getMessage()))


@pytest.fixture
def messages() -> Any:
    handler = Messages()
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield handler.seen
    logger.removeHandler(handler)


def change_refs(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = folder / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    change(refs)
    path.write_bytes(pickle.dumps(refs))


def change_instances(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def list_texts(dataset: Any) -> dict[int, str]:
    """Text of every expression by its id."""
    samples = [item["data_samples"] for item in dataset]
    return {
        name: text
        for sample in samples
        for name, text in zip(sample.expression_ids, sample.phrases)
    }


# --- at load ---------------------------------------------------------------------------------

CONFLICT = {**make_refs()[0], "ann_id": 11, "image_id": 1}
AT_LOAD = {
    "annotation absent": (
        lambda refs: refs[0].update(ann_id=99),
        "ref 7 has ann_id 99, which is not in instances.json",
        [700, 701, 702],
    ),
    "image absent": (
        lambda refs: refs[0].update(image_id=99),
        "ref 7 has image_id 99, which is not in instances.json",
        [700, 701, 702],
    ),
    "annotation of another image": (
        lambda refs: refs[0].update(image_id=1),
        "ref 7 is about image 1, its annotation 10 about image 2",
        [700, 701, 702],
    ),
    "one ref_id, two contents": (
        lambda refs: refs.append(CONFLICT),
        "ref 7 occurs more than once, with other content",
        [700, 701, 702],
    ),
    "one sent_id, two sentences": (
        lambda refs: refs[2]["sentences"][0].update(sent_id=300),
        "sentence 300 of ref 4 (image_id 1): this sent_id occurs more than once",
        [300],
    ),
    "no text": (
        lambda refs: refs[0]["sentences"][1].update(raw=None),
        "sentence 701 of ref 7 (image_id 2) is no text but None",
        [701],
    ),
    "half an emoji": (
        lambda refs: refs[0]["sentences"][1].update(raw="the \ud83d dog"),
        "sentence 701 of ref 7 (image_id 2) is no valid Unicode",
        [701],
    ),
}


@pytest.mark.parametrize("case", AT_LOAD)
def test_unusable_refs_stop_or_are_listed(
    build_dataset: Any, mini_refcoco: Path, messages: list[Any], case: str
) -> None:
    change, reason, lost = AT_LOAD[case]
    clean = list_texts(build_dataset(text_mode="all"))
    change_refs(mini_refcoco, change)
    with pytest.raises(BadRecordError) as error:
        build_dataset()
    assert f"mini/refs(unc).p, split 'train': {reason}" in str(error.value)
    assert WAY_OUT in str(error.value)
    messages.clear()
    dataset = build_dataset(text_mode="all", bad_records="skip")
    assert [item.expression_id for item in dataset.skipped] == lost
    assert all(reason in item.reason for item in dataset.skipped)
    assert len(messages) == 1
    count = "1 expression is" if len(lost) == 1 else f"{len(lost)} expressions are"
    assert messages[0][1].startswith(f"{count} left out: mini/refs(unc).p, split 'train': ")
    assert reason in messages[0][1]
    dropped = set() if "one" in case else set(lost)  # the first of a pair stays
    if case == "one sent_id, two sentences":
        clean.pop(400)
    assert list_texts(dataset) == {key: text for key, text in clean.items() if key not in dropped}


def test_a_picture_without_a_size_is_told(build_dataset: Any, mini_refcoco: Path) -> None:
    change_instances(mini_refcoco, lambda content: content["images"][0].update(height=20.5))
    with pytest.raises(BadRecordError, match=r"image_id 1, whose size is \[20\.5, 30\] \(h, w\)"):
        build_dataset()
    dataset = build_dataset(text_mode="all", bad_records="skip")
    assert [item["data_samples"].image_id for item in dataset] == [2]
    assert {item.image_id for item in dataset.skipped} == {1}


def test_annotations_without_a_mask_field_are_told(build_dataset: Any, mini_refcoco: Path) -> None:
    change_instances(mini_refcoco, lambda content: content["annotations"][1].pop("segmentation"))
    with pytest.raises(BadRecordError, match="ref 3 has ann_id 11, whose record has no field 'seg"):
        build_dataset()


@pytest.mark.parametrize(
    ("counts", "reason"),
    # The second one's runs fill the picture; what follows them breaks pycocotools' heap.
    [([7], "the runs of"), ("hb0P", "the counts of the RLE end inside a number")],
)
def test_a_mask_that_cannot_be_decoded_costs_its_refs_only(
    build_dataset: Any, mini_refcoco: Path, counts: Any, reason: str
) -> None:
    broken = {"size": [20, 30], "counts": counts}
    change_instances(mini_refcoco, lambda c: c["annotations"][2].update(segmentation=broken))
    with pytest.raises(
        BadRecordError, match=f"ref 5 has ann_id 12, whose mask cannot be decoded: {reason}"
    ):
        build_dataset()
    dataset = build_dataset(text_mode="all", bad_records="skip")
    assert [item.expression_id for item in dataset.skipped] == [500, 501, 502, 503]
    assert dataset[1]["data_samples"].ref_ids == [3, 3, 4, 6]


def test_an_id_that_is_none_is_told(build_dataset: Any, mini_refcoco: Path) -> None:
    change_instances(mini_refcoco, lambda c: c["annotations"][0].update(id={"of": 10}))
    with pytest.raises(ValueError, match=r"an annotation has the id \{'of': 10\}: wanted a number"):
        build_dataset()


def test_one_id_for_two_annotations_is_told(build_dataset: Any, mini_refcoco: Path) -> None:
    change_instances(mini_refcoco, lambda c: c["annotations"].append(c["annotations"][0]))
    assert len(build_dataset()) == 2  # word for word the same
    change_instances(mini_refcoco, lambda c: c["annotations"][-1].update(segmentation=[]))
    with pytest.raises(ValueError, match="an annotation with id 10 occurs more than once, with"):
        build_dataset(bad_records="skip")


def test_refs_that_stand_there_twice_are_used_once(
    build_dataset: Any, mini_refcoco: Path, messages: list[Any]
) -> None:
    clean = list_texts(build_dataset(text_mode="all"))

    def repeat(refs: list[dict[str, Any]]) -> None:
        refs += refs[:2]
        refs[0]["sentences"].append(refs[0]["sentences"][0])

    change_refs(mini_refcoco, repeat)
    messages.clear()
    dataset = build_dataset(text_mode="all")
    assert list_texts(dataset) == clean
    assert dataset.skipped == []
    assert [text.partition(": ")[2] for _, text in messages] == [
        "3 records stand in the file twice, word for word; they are used once"
    ]


@pytest.mark.parametrize("bad_records", ["stop", "skip"])
def test_blank_sentences_are_listed(
    build_dataset: Any, mini_refcoco: Path, messages: list[Any], bad_records: str
) -> None:
    def blank(refs: list[dict[str, Any]]) -> None:
        refs[1]["sentences"][0].update(raw="  ")
        refs[3]["sentences"][3].update(raw="")

    change_refs(mini_refcoco, blank)
    for text_mode, lost in (("all", [300, 503]), ("random", [300, 503]), ("first", [300])):
        messages.clear()
        dataset = build_dataset(text_mode=text_mode, bad_records=bad_records, test_mode=True)
        assert [(item.expression_id, item.image_id) for item in dataset.skipped] == [
            (name, 1) for name in lost
        ]
        assert "sentence 300 of ref 3 (image_id 1) is blank" in dataset.skipped[0].reason
        assert messages[0][1].startswith("2 expressions are" if len(lost) == 2 else "1 expression")
    assert dataset[1]["data_samples"].phrases[0] == "dog"


def test_nothing_usable_is_an_error(write_mini: Any, build_dataset: Any, tmp_path: Path) -> None:
    root = write_mini(tmp_path / "bad", [make_ref(1, 99, 1, ["x"])], make_annotations())
    with pytest.raises(ValueError, match=r"no record can be used\. 1 expression is left out: bad/"):
        build_dataset(data_root=str(root), bad_records="skip")


def test_the_argument_is_one_of_two(build_dataset: Any) -> None:
    with pytest.raises(ValueError, match=r"bad_records is one of \('stop', 'skip'\), got 'drop'"):
        build_dataset(bad_records="drop")


def test_the_control_lists_objects_without_another(build_dataset: Any) -> None:
    dataset = build_dataset(text_mode="all", phrase_control="other_object", test_mode=True)
    assert [item.expression_id for item in dataset.skipped] == [700, 701, 702, 800]


# --- at read time ----------------------------------------------------------------------------


def spoil_picture(folder: Path) -> None:
    (folder / "images" / "2.png").unlink()


def spoil_size(folder: Path) -> None:
    Image.new("RGB", (17, 32)).save(folder / "images" / "2.png")


def cut_picture(folder: Path) -> None:
    path = folder / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:-30])


AT_READ = {
    spoil_picture: r"2\.png \(image_id 2\) does not exist: check data_root and data_prefix",
    spoil_size: r"2\.png \(image_id 2\) is 32 x 17 px \(h x w\), its annotation says 31 x 17",
    cut_picture: r"2\.png cannot be read: .*\(image_id 2\)",
}


@pytest.mark.parametrize("spoil", AT_READ)
@pytest.mark.parametrize("test_mode", [False, True])
def test_stop(build_dataset: Any, mini_refcoco: Path, spoil: Any, test_mode: bool) -> None:
    spoil(mini_refcoco)
    dataset = build_dataset(test_mode=test_mode)
    kind = MissingFileError if spoil is spoil_picture else BadRecordError
    with pytest.raises(kind, match=rf"{AT_READ[spoil]}.*; {WAY_OUT}"):
        dataset[0]


@pytest.mark.parametrize("spoil", AT_READ)
def test_evaluation_gets_the_expressions_of_a_bad_record(
    build_dataset: Any, mini_refcoco: Path, spoil: Any
) -> None:
    clean = build_dataset(text_mode="all", test_mode=True)[0]["data_samples"]
    spoil(mini_refcoco)
    dataset = build_dataset(text_mode="all", test_mode=True, bad_records="skip")
    item = dataset[0]
    sample = item["data_samples"]
    assert item["inputs"] is None
    assert "gt_masks" not in sample
    assert sample.continuations == clean.continuations
    for name in ("image_id", "img_path", "expression_ids", "ref_ids", "original_size"):
        assert sample.get(name) == clean.get(name)
    assert sample.expression_kinds == clean.expression_kinds
    assert dataset.skipped == []  # what is met at read time travels in the sample
    assert re.search(AT_READ[spoil], sample.skipped)
    assert WAY_OUT not in sample.skipped


def test_evaluation_loads_bad_records_in_batches_with_good_ones(
    build_dataset: Any, mini_refcoco: Path
) -> None:
    spoil_picture(mini_refcoco)
    dataset = build_dataset(text_mode="all", test_mode=True, bad_records="skip")
    (batch,) = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=pseudo_collate)
    assert [entry is None for entry in batch["inputs"]] == [True, False]
    assert ["skipped" in entry for entry in batch["data_samples"]] == [True, False]


def test_training_takes_the_next_usable_record(
    build_dataset: Any, mini_refcoco: Path, messages: list[Any]
) -> None:
    spoil_picture(mini_refcoco)
    dataset = build_dataset(text_mode="all", bad_records="skip")
    messages.clear()
    for index in (0, 1, 0):
        assert dataset[index]["data_samples"].image_id == 1
    (message,) = messages
    assert message[0] == logging.ERROR
    assert "record 0 is skipped, the next usable one takes its place: image " in message[1]
    assert dataset.count_unusable() == {"unusable": 1, "with_empty_masks": 0}
    (mini_refcoco / "images" / "1.png").unlink()
    with pytest.raises(BadRecordError, match=r"2 records in a row, from 1 on, .*2\.png"):
        dataset[1]


def test_twenty_in_a_row_stop(write_mini: Any, build_dataset: Any, tmp_path: Path) -> None:
    refs = [make_ref(index, index, index, ["a dog"]) for index in range(1, 31)]
    annotations = [
        {"id": index, "image_id": index, "segmentation": [[1, 1, 6, 1, 6, 6]]}
        for index in range(1, 31)
    ]
    root = write_mini(tmp_path / "many", refs, annotations)
    images = [
        {"id": index, "file_name": f"{min(index, 24)}.png", "height": 8, "width": 9}
        for index in range(1, 31)
    ]
    change_instances(root, lambda content: content.update(images=images))
    Image.new("RGB", (9, 8)).save(root / "images" / "24.png")
    for index in SIZES:
        (root / "images" / f"{index}.png").unlink()
    dataset = build_dataset(data_root=str(root), bad_records="skip")
    assert dataset[4]["data_samples"].image_id == 24  # 19 bad ones before it
    with pytest.raises(BadRecordError, match=r"20 records in a row, from 3 on, .*23\.png"):
        dataset[3]


# --- true masks without a pixel --------------------------------------------------------------


def empty_ref_three(folder: Path) -> None:
    """Ref 3 and 4 of image 1 get a polygon that lies outside of the picture."""
    outside = [[100.0, 100.0, 150.0, 100.0, 150.0, 150.0]]
    change_instances(folder, lambda c: c["annotations"][1].update(segmentation=outside))


def test_evaluation_keeps_expressions_with_an_empty_true_mask(
    build_dataset: Any, mini_refcoco: Path
) -> None:
    empty_ref_three(mini_refcoco)
    sample = build_dataset(text_mode="all", test_mode=True)[1]["data_samples"]
    assert sample.ref_ids == [3, 3, 4, 5, 5, 5, 5, 6]
    assert sample.gt_masks.flatten(1).any(1).tolist() == [False] * 3 + [True] * 5


@pytest.mark.parametrize("bad_records", ["stop", "skip"])
@pytest.mark.parametrize("joined", [False, True])
def test_training_leaves_expressions_with_an_empty_true_mask_out(
    build_dataset: Any,
    mini_refcoco: Path,
    messages: list[Any],
    bad_records: str,
    joined: bool,
) -> None:
    empty_ref_three(mini_refcoco)
    dataset = build_dataset(text_mode="first", joined=joined, bad_records=bad_records)
    messages.clear()
    for _ in range(3):
        sample = dataset[1]["data_samples"]
    assert sample.phrases == ["crowd", "noise"]
    assert (sample.ref_ids, sample.expression_ids) == ([5, 6], [500, 600])
    assert sample.gt_masks.flatten(1).any(1).tolist() == [True, True]
    texts = [item.text for item in sample.continuations]
    assert texts == (
        ["red dog. the same dog again. crowd. noise."] if joined else ["crowd", "noise"]
    )
    assert [text.partition(": ")[2] for _, text in messages] == [
        "the true masks of expressions [300, 400] of image 1 are empty; they are not trained on"
    ]
    assert dataset.count_unusable() == {"unusable": 0, "with_empty_masks": 1}


def test_an_image_with_empty_masks_only_is_a_bad_record(
    build_dataset: Any, mini_refcoco: Path
) -> None:
    change_instances(mini_refcoco, lambda c: c["annotations"][0].update(segmentation=[]))
    with pytest.raises(BadRecordError, match=r"2\.png \(image_id 2\) are empty: there is nothing"):
        build_dataset()[0]
    assert build_dataset(bad_records="skip")[0]["data_samples"].image_id == 1
    assert len(build_dataset(text_mode="all", test_mode=True)[0]["data_samples"].phrases) == 4


def test_boxes_outside_the_picture_change_nothing(build_dataset: Any, mini_refcoco: Path) -> None:
    before = build_dataset(text_mode="all")[0]["data_samples"].gt_masks
    change_instances(
        mini_refcoco, lambda c: c["annotations"][0].update(bbox=[-50, 900, 1e9, -3], area=0)
    )
    assert torch.equal(build_dataset(text_mode="all")[0]["data_samples"].gt_masks, before)


# --- what people write -----------------------------------------------------------------------

EXPRESSIONS = [
    " ".join(f"word{index}" for index in range(500)),
    "左边穿红衣服的女人",
    "the 🐕‍🦺 left of the 👩🏽‍🚀",
    "a cup <|image_pad|> and <|im_end|><|vision_start|>",
    "İstanbul\nnaïve\tfiancée",
]


def test_every_text_is_read_as_plain_text(
    write_mini: Any, build_dataset: Any, qwen_folder: Path, tmp_path: Path
) -> None:
    root = write_mini(tmp_path / "texts", [make_ref(1, 11, 1, EXPRESSIONS)], make_annotations())
    sample = build_dataset(data_root=str(root), text_mode="all")[0]["data_samples"]
    assert sample.phrases == [text.lower() for text in EXPRESSIONS]
    tokenizer = AutoTokenizer.from_pretrained(qwen_folder)
    plain = PlainTextTokenizer(tokenizer)
    control = set(tokenizer.added_tokens_decoder)
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") in control
    for item in sample.continuations:
        encoded = plain.encode_continuation(item)
        assert not control & set(encoded.input_ids)
        assert tokenizer.decode(encoded.input_ids) == item.text
        assert encoded.token_spans == [(0, len(encoded.input_ids))]
