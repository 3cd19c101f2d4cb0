"""The order of training: where an epoch goes on, and the word to the data sets which epoch it is.

mmengine tells its samplers when an epoch begins; :class:`EpochSampler` passes that on, so that a
data set which draws a sentence per epoch draws the same one on every rank, in every worker and
after a resume. A resumed training goes on in the middle of an epoch without reading the pictures
that come before.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` (same arguments) that can skip and calls ``set_epoch``."""

    _skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the shuffling and of the data set, however deep it is wrapped."""
        super().set_epoch(epoch)
        for item in list_datasets(self.dataset):
            if hasattr(item, "set_epoch"):
                item.set_epoch(epoch)

    def skip(self, samples: int) -> None:
        """Leave out the first ``samples`` indices of this process, the next time only."""
        self._skipped = samples

    def __iter__(self) -> Iterator[int]:
        skipped, self._skipped = self._skipped, 0
        return islice(super().__iter__(), skipped, None)


def list_datasets(dataset: Any) -> Iterator[Any]:
    """A data set, then all those that it holds if it is one of mmengine's or torch's wrappers."""
    yield dataset
    for item in getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]:
        if item is not None:
            yield from list_datasets(item)
