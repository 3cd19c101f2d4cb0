"""The data set: which expressions come, in which order, with which masks."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from flmm.data.grounding_dataset import EpochSampler
from flmm.data.refcoco import RefCocoGroundingDataset
from flmm.data.samples import build_continuations


def get_phrases(item: dict[str, Any]) -> list[str]:
    return item["data_samples"].phrases


def test_every_sentence_in_the_order_of_the_file(build_dataset: Any) -> None:
    dataset = build_dataset(text_mode="all")
    samples = [item["data_samples"] for item in dataset]
    assert [sample.image_id for sample in samples] == [2, 1]
    assert samples[0].phrases == ["tall thing", "the tower", "left", "same tower"]
    assert samples[0].ref_ids == [7, 7, 7, 8]
    assert samples[0].expression_ids == [700, 701, 702, 800]
    assert samples[0].expression_kinds == ["shape", "shape", "shape", "other"]
    assert samples[0].original_size == (31, 17)
    assert samples[1].ref_ids == [3, 3, 4, 5, 5, 5, 5, 6]
    assert "expression_kinds" not in samples[1]
    assert all(len(item.spans) == 1 for item in samples[1].continuations)


def test_masks_are_those_of_pycocotools(build_dataset: Any, mini_refcoco: Path) -> None:
    coco = COCO(str(mini_refcoco / "instances.json"))
    for split in ("train", "val"):
        dataset = build_dataset(text_mode="all", split=split)
        for item in dataset:
            sample = item["data_samples"]
            refs = pickle.loads((mini_refcoco / "refs(unc).p").read_bytes())
            annotations = {ref["ref_id"]: ref["ann_id"] for ref in refs}
            expected = [coco.annToMask(coco.anns[annotations[ref]]) for ref in sample.ref_ids]
            assert sample.gt_masks.dtype == torch.bool
            assert np.array_equal(sample.gt_masks.numpy(), np.stack(expected).astype(bool))


def test_an_annotation_without_polygons_is_an_empty_mask(build_dataset: Any) -> None:
    dataset = build_dataset(split="testA", test_mode=True)
    assert not dataset[0]["data_samples"].gt_masks.any()


def test_first_sentence_of_every_ref(build_dataset: Any) -> None:
    dataset = build_dataset(text_mode="first")
    assert get_phrases(dataset[1]) == ["red dog", "the same dog again", "crowd", "noise"]
    assert dataset.text_mode == "first"
    assert build_dataset(text_mode="select_first").text_mode == "first"


def test_random_sentences_are_drawn_anew_each_epoch_and_reproducibly(build_dataset: Any) -> None:
    dataset, other = build_dataset(text_mode="random"), build_dataset(text_mode="random")
    drawn = []
    for epoch in range(16):
        dataset.set_epoch(epoch)
        other.set_epoch(epoch)
        drawn.append(get_phrases(dataset[1]))
        assert get_phrases(other[1]) == drawn[-1] == get_phrases(dataset[1])
        assert len(drawn[-1]) == 4
    assert {phrases[2] for phrases in drawn} == {"crowd", "the people", "all of them", "folk"}
    seeded = [get_phrases(build_dataset(text_mode="random", seed=seed)[1]) for seed in range(9)]
    assert len(set(map(tuple, seeded))) > 1


def test_the_sampler_tells_the_epoch_to_workers_that_live_on(build_dataset: Any) -> None:
    dataset = build_dataset(text_mode="random")
    expected = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        expected.append([get_phrases(dataset[index]) for index in range(2)])
    dataset.set_epoch(0)
    sampler = EpochSampler(dataset, shuffle=False)
    loader = torch.utils.data.DataLoader(
        dataset, sampler=sampler, num_workers=1, persistent_workers=True, collate_fn=list
    )
    seen = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        seen.append([get_phrases(batch[0]) for batch in loader])
    assert seen == expected


def test_joined_phrases_are_one_continuation(build_dataset: Any) -> None:
    sample = build_dataset(text_mode="first", joined=True)[1]["data_samples"]
    assert len(sample.continuations) == 1
    assert sample.continuations[0].text == "red dog. the same dog again. crowd. noise."
    assert sample.phrases == ["red dog", "the same dog again", "crowd", "noise"]
    assert len(sample.gt_masks) == 4


def test_joined_spans() -> None:
    (joined,) = build_continuations(["a", "bc.", "漢字"], joined=True)
    assert joined.text == "a. bc.. 漢字."
    assert joined.phrases == ["a", "bc.", "漢字"]


def test_at_most_so_many_expressions(build_dataset: Any) -> None:
    dataset = build_dataset(text_mode="all", max_expressions=3)
    everything = get_phrases(build_dataset(text_mode="all")[1])
    seen = set()
    for epoch in range(25):
        dataset.set_epoch(epoch)
        sample = dataset[1]["data_samples"]
        assert len(sample.phrases) == len(sample.gt_masks) == len(set(sample.phrases)) == 3
        assert sorted(sample.phrases, key=everything.index) == sample.phrases
        seen |= set(sample.phrases)
    assert seen == set(everything)


def test_control_asks_with_the_phrase_of_another_object(build_dataset: Any) -> None:
    plain = build_dataset(text_mode="all")[1]["data_samples"]
    dataset = build_dataset(text_mode="all", phrase_control="other_object")
    assert len(dataset) == 1  # image 2 has two refs, but they mean one object
    sample = dataset[0]["data_samples"]
    assert sample.expression_ids == plain.expression_ids
    assert torch.equal(sample.gt_masks, plain.gt_masks)
    objects = {"red dog": 11, "dog": 11, "the same dog again": 11, "noise": 13}
    for asked, own in zip(sample.phrases, plain.phrases):
        assert objects.get(asked, 12) != objects.get(own, 12)


def test_loading_twice_gives_the_same(build_dataset: Any) -> None:
    first, second = build_dataset(text_mode="all"), build_dataset(text_mode="all")
    assert [first.get_data_info(i) for i in range(2)] == [second.get_data_info(i) for i in range(2)]
    assert isinstance(copy.deepcopy(first), RefCocoGroundingDataset)


def test_it_is_mmdets_data_set(build_dataset: Any) -> None:
    from mmdet.datasets import RefCocoDataset

    from flmm.registry import DATASETS

    assert isinstance(build_dataset(), RefCocoDataset)
    assert DATASETS.get("flmm.RefCocoGroundingDataset") is RefCocoGroundingDataset


def test_arguments_that_do_not_fit_are_told(build_dataset: Any) -> None:
    with pytest.raises(ValueError, match=r"text_mode is one of \('all', 'first', 'random'\)"):
        build_dataset(text_mode="concat")
    with pytest.raises(ValueError, match="phrase_control is one of"):
        build_dataset(phrase_control="other")
    with pytest.raises(ValueError, match=r"no ref of split 'test'; its splits are \['testA'"):
        build_dataset(split="test")
    with pytest.raises(ValueError, match="not both"):
        build_dataset(pipeline=[])
    with pytest.raises(
        FileNotFoundError, match=r"ann_file .*no\.json does not exist: check ann_fi"
    ):
        build_dataset(ann_file="no.json")
    with pytest.raises(FileNotFoundError, match=r"split_file .*no\.p does not exist"):
        build_dataset(split_file="no.p")
