"""Which sample comes when: epochs reach every data set, and skipping skips only once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.dataset import ConcatDataset, DefaultSampler
from mmengine.registry import init_default_scope
from mmengine.runner.runner import _SlicedDataset
from torch.utils.data import DataLoader, Subset

from flmm.config import load_config
from flmm.data.grounding_dataset import EpochSampler
from flmm.data.refcoco import RefCocoGroundingDataset
from flmm.registry import DATASETS
from flmm.training.loops import TrainingStream
from tests.training.toy_training import CONFIGS


@pytest.fixture
def record(scenes: Path) -> dict[str, Any]:
    """Config of a data set that draws anew each epoch."""
    init_default_scope("flmm")
    options = {"data_root": str(scenes)}
    config = load_config(CONFIGS / "tiny/tiny_unet_sam_shapes.py", options)
    return {**config.train_dataloader.dataset, "image_processor": None}


def list_leaves(dataset: Any) -> list[RefCocoGroundingDataset]:
    if isinstance(dataset, RefCocoGroundingDataset):
        return [dataset]
    inner = vars(dataset).get("datasets") or [
        vars(dataset)[name] for name in ("dataset", "_dataset") if name in vars(dataset)
    ]
    return [leaf for item in inner for leaf in list_leaves(item)]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda one: DATASETS.build(one),
        lambda one: ConcatDataset([one, one]),
        lambda one: ConcatDataset([dict(type="RepeatDataset", times=2, dataset=one), one]),
        lambda one: ConcatDataset([dict(type="ConcatDataset", datasets=[one, one]), one]),
        lambda one: Subset(ConcatDataset([one, one]), [0, 1]),
        lambda one: _SlicedDataset(ConcatDataset([one, one]), 3),
    ],
    ids=["alone", "joined", "repeated", "joined twice", "part", "sliced"],
)
def test_the_epoch_reaches_every_data_set(record: dict[str, Any], wrap: Callable) -> None:
    dataset = wrap(record)
    EpochSampler(dataset, seed=0).set_epoch(3)
    leaves = list_leaves(dataset)
    assert [int(leaf._epoch) for leaf in leaves] == [3] * len(leaves)
    assert leaves


def test_skipping_leaves_the_rest_in_order() -> None:
    sampler = EpochSampler(list(range(10)), seed=5)
    sampler.set_epoch(2)
    whole = list(sampler)
    plain = DefaultSampler(list(range(10)), seed=5)
    plain.set_epoch(2)
    assert whole == list(plain)
    sampler.skip(4)
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole
    sampler.skip(20)
    assert list(sampler) == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_stream_goes_on_anywhere(workers: int, drop_last: bool) -> None:
    def open_stream() -> TrainingStream:
        data = list(range(11))
        loader = DataLoader(
            data,
            batch_size=3,
            sampler=EpochSampler(data, seed=1),
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=drop_last,
        )
        return TrainingStream(loader)

    whole = open_stream()
    batches, positions = [], [(0, 0)]
    for batch in whole.iterate():
        batches.append(batch.tolist())
        positions.append((whole.epoch, whole.samples))
        if len(batches) == 10:
            break
    per_epoch = 3 if drop_last else 4
    assert len({index for batch in batches[:per_epoch] for index in batch}) == 11 - 2 * drop_last
    for done in (1, per_epoch - 1, per_epoch, per_epoch + 2):
        stream = open_stream()
        stream.epoch, stream.samples = positions[done]
        assert stream.next_batch == done - per_epoch * stream.epoch
        rest = stream.iterate()
        assert [next(rest).tolist() for _ in range(2)] == batches[done : done + 2]
        rest.close()
        stream.close()
