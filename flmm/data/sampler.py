"""The order of training: where an epoch goes on, and the word to the data sets which epoch it is.

mmengine tells its samplers when an epoch begins, in epoch-based and in iteration-based loops;
:class:`EpochSampler` passes that on, so that a data set which draws a sentence per epoch draws
the same one on every rank, in every worker and after a resume. A resumed training goes on in the
middle of an epoch without reading the pictures that come before.
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
        _set_epoch(self.dataset, epoch)

    def skip(self, samples: int) -> None:
        """Leave out the first ``samples`` indices of this process, the next time only."""
        self._skipped = samples

    def __iter__(self) -> Iterator[int]:
        """The indices of this process in the present epoch."""
        skipped, self._skipped = self._skipped, 0
        return islice(super().__iter__(), skipped, None)


def _set_epoch(dataset: Any, epoch: int) -> None:
    """Tell a data set, or all those that mmengine's or torch's wrappers hold."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)
        return
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for item in inner:
        if item is not None:
            _set_epoch(item, epoch)


__all__ = ["EpochSampler"]
