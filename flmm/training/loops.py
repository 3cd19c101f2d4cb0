"""mmengine's two training loops, able to go on at any sample.

After a resume come the iterations that a run without interruption would have done next, in the same
order; pictures that were trained on before are not read again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Sized
from contextlib import closing
from typing import Any, cast

from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import Registry
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.runner.utils import calc_dynamic_intervals
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from flmm.training.training_state import restore_gradients, restore_random_state

LOOPS = Registry(MMENGINE_LOOPS.name, parent=MMENGINE_LOOPS, scope="flmm")


class TrainingStream:
    """The batches of training, epoch after epoch, from any sample on.

    With a sampler that has ``skip`` (``EpochSampler``) nothing is read twice; with another one the
    first batches are read and dropped.

    Attributes:
        epoch: of the data.
        samples: of this epoch, of all processes together, that were handed out.

    Raises:
        ValueError: the loader gives no batch at all.
    """

    def __init__(self, dataloader: DataLoader) -> None:
        self.dataset = cast(Sized, dataloader.dataset)
        if len(dataloader) == 0:
            raise ValueError(
                f"the training data give no batch: {len(self.dataset)} records, batch_size "
                f"{dataloader.batch_size}, drop_last {dataloader.drop_last}"
            )
        self.dataloader = dataloader
        batches: Any = dataloader.batch_sampler
        self.sampler: Any = getattr(batches, "sampler", dataloader.sampler)
        self.batch_size = getattr(batches, "batch_size", dataloader.batch_size)
        self._can_skip = type(batches) is BatchSampler and hasattr(self.sampler, "skip")
        self.epoch = 0
        self.samples = 0

    @property
    def samples_per_iteration(self) -> int:
        """Of all processes together."""
        return self.batch_size * get_world_size()

    @property
    def next_batch(self) -> int:
        """Index in the epoch of the batch that comes next in this process."""
        done = self.samples // get_world_size()
        if not self._can_skip:
            return done // self.batch_size
        left = max(0, len(self.sampler) - done) / self.batch_size
        left = math.floor(left) if self.dataloader.drop_last else math.ceil(left)
        return len(self.dataloader) - left

    def iterate_epoch(self) -> Generator[tuple[int, Any], None, None]:
        """The batches that are left of the epoch, each with its index in the epoch."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(self.epoch)
        start, first = self.samples, self.next_batch
        for count, batch in enumerate(self._open(first)):
            self.samples = start + (count + 1) * self.samples_per_iteration
            yield first + count, batch

    def advance(self) -> None:
        """Go to the next epoch."""
        self.epoch, self.samples = self.epoch + 1, 0

    def iterate(self) -> Generator[Any, None, None]:
        """Batches without end."""
        while True:
            for _, batch in self.iterate_epoch():
                yield batch
            self.advance()

    def close(self) -> None:
        """Stop the workers; those that the garbage collector finds are waited for in vain."""
        self.dataloader._iterator = None  # of persistent workers, the last reference

    def _open(self, first: int) -> Iterator[Any]:
        if self._can_skip:
            self.sampler.skip(self.samples // get_world_size())
            return iter(self.dataloader)
        if first:
            print_log(
                f"{type(self.sampler).__name__} cannot skip: the {first} batches that were trained "
                "on before are read and dropped (sampler type EpochSampler does without)",
                logger="current",
                level=logging.WARNING,
            )
        batches = iter(self.dataloader)
        for _ in range(first):
            next(batches)
        return batches


class ResumableLoop(BaseLoop):
    """What both training loops share: where they stand, and going on from there."""

    stream: TrainingStream
    _epoch: int
    _iter: int
    _validated_at = -1
    _own_state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands; plain values."""
        return {
            "epoch": self.stream.epoch,
            "samples": self.stream.samples,
            "samples_per_iteration": self.stream.samples_per_iteration,
            "world_size": get_world_size(),
            "dataset_size": len(self.stream.dataset),
            "sampler_seed": getattr(self.stream.sampler, "seed", None),
            "validated_at": self._validated_at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where :meth:`state_dict` was taken; with ``processes``, what each of them knew.

        Raises:
            ValueError: the data are not those of the checkpoint.
        """
        size = len(self.stream.dataset)
        if state["dataset_size"] != size:
            raise ValueError(
                f"the training data have {size} records, those of the checkpoint had "
                f"{state['dataset_size']}: resume with the same data, or begin a new training "
                "from its weights with --load-from CHECKPOINT and without --resume"
            )
        self.stream.epoch, self.stream.samples = state["epoch"], state["samples"]
        if state["sampler_seed"] is not None and hasattr(self.stream.sampler, "seed"):
            self.stream.sampler.seed = state["sampler_seed"]
        self._validated_at = state["validated_at"]
        if state["world_size"] == get_world_size():
            self._own_state = state["processes"][get_rank()]

    def _restore_process(self) -> None:
        """At the last moment, so that nothing before can draw from the random generators."""
        if self._own_state is not None:
            if self._own_state["gradients"] is not None:
                restore_gradients(self.runner.optim_wrapper, self._own_state["gradients"])
                print_log("Restored the gradients of an unfinished accumulation", logger="current")
            restore_random_state(self._own_state["random"])
            self._own_state = None

    def _validate(self, done: int, last: int) -> None:
        """Validate after so many epochs or iterations of all, where due and not done before."""
        self._decide_current_val_interval()
        is_due = done % self.val_interval == 0 or done == last
        is_due = is_due and done >= self.val_begin and self._validated_at != self._iter
        if is_due and self.runner.val_loop is not None:
            self._validated_at = self._iter
            self.runner.val_loop.run()


@LOOPS.register_module(name="EpochBasedTrainLoop")
class ResumableEpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` (same arguments) that goes on within an epoch."""

    def __init__(self, runner: Any, dataloader: Any, *args: Any, **kwargs: Any) -> None:
        EpochBasedTrainLoop.__init__(self, runner, dataloader, *args, **kwargs)
        self.stream = TrainingStream(self.dataloader)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`ResumableLoop`; iterations are counted anew where they differ in size."""
        super().load_state_dict(state)
        self._epoch = self.stream.epoch
        if state["samples_per_iteration"] != self.stream.samples_per_iteration:
            self._iter = self._epoch * len(self.dataloader) + self.stream.next_batch

    def run(self) -> nn.Module:
        """Train."""
        self.runner.call_hook("before_train")
        self._restore_process()
        if self._iter > 0 and self.stream.samples == 0:
            self._validate(self._epoch, self._max_epochs)
        with closing(self.stream):
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self._validate(self._epoch, self._max_epochs)
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train on what is left of the epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        with closing(self.stream.iterate_epoch()) as batches:
            for index, batch in batches:
                self.run_iter(index, batch)
        # A checkpoint of the epoch's end is written by the hook: it stands at the next epoch.
        self.stream.advance()
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module(name="IterBasedTrainLoop")
class ResumableIterLoop(ResumableLoop, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop`` (same arguments) that goes on without reading old data."""

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        # mmengine's constructor would start to read at once, before a resume can say from where.
        BaseLoop.__init__(self, runner, dataloader)
        self.stream = TrainingStream(self.dataloader)
        self._max_iters, self._max_epochs = int(max_iters), 1
        self._epoch = self._iter = 0
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False  # set by mmengine's EarlyStoppingHook
        runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, "metainfo", None)
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )

    def run(self) -> nn.Module:
        """Train; to mmengine's hooks the whole training is one epoch."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self._restore_process()
        if self._iter > 0:
            self._validate(self._iter, self._max_iters)
        with closing(self.stream), closing(self.stream.iterate()) as batches:
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                self.run_iter(next(batches))
                self._validate(self._iter, self._max_iters)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model
