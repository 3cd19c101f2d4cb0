"""The order of training, and the word to the data set which epoch it is.

mmengine tells its samplers when an epoch begins, in epoch-based and in iteration-based loops;
:class:`EpochSampler` passes that on, so that a data set which draws a sentence per epoch draws
the same one on every rank, in every worker and after a resume.
"""

from __future__ import annotations

from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` (same arguments) that also calls ``dataset.set_epoch``."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the shuffling and of the data set (or of each concatenated one)."""
        super().set_epoch(epoch)
        for dataset in getattr(self.dataset, "datasets", [self.dataset]):
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)


__all__ = ["EpochSampler"]
