"""What data sets of pictures and phrases share: pipeline, draws by epoch, and bad records.

Only a :class:`BadRecordError` says that a record is at fault; any other exception is a defect of
the program and always stops. In training the worker that meets a bad record tells it at once, with
level ERROR because a rank other than 0 shows nothing below, and marks it in shared memory: told
once, whatever the number of workers and epochs. In evaluation the sample itself has the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine.dataset import BaseDataset, DefaultSampler
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS

from flmm.data.samples import build_sample
from flmm.images import Orientation
from flmm.records import SkippedExpression

WAY_OUT = "repair it, or set bad_records='skip' to leave such records out and have them counted"
MAX_BAD_IN_A_ROW = 20
_REASONS_SHOWN = 3
# Marks of a record in shared memory.
_UNUSABLE, _WITH_EMPTY_MASKS = 1, 2

Item = TypeVar("Item")


class BadRecordError(ValueError):
    """A record of a data set cannot be used; the message names it and says why."""


class MissingFileError(BadRecordError, FileNotFoundError):
    """A file that a record names does not exist."""


class GroundingDataset(BaseDataset):
    """A data set whose items are pictures with phrases and their true masks.

    Args:
        image_processor: config of the reader's image processor; makes the standard pipeline, which
            keeps phrases with an empty true mask in ``test_mode`` and leaves them out of training.
        pipeline: a pipeline of one's own instead.
        seed: of the draws.
        redraw: draw anew in every epoch; otherwise from ``(seed, index)`` alone, so that every
            epoch asks the same (for ``feature_cache``).
        bad_records: "stop": a record that cannot be used raises; the message names it and the way
            out. "skip": at load it is left out and listed in ``skipped``. At read time, with
            ``test_mode``, an item without picture takes its place: ``dict(inputs=None,
            data_samples=...)``, whose meta field ``skipped`` says why; in training the next usable
            record is taken, and after 20 bad ones in a row the run stops.
        *args, **kwargs: of mmengine's ``BaseDataset``.

    Attributes:
        mask_decoder: name of the transform that writes ``gt_masks``.
        orientation: of the pictures that the masks are given on, see ``LoadRGBImage``.
        skipped: the expressions left out at load, in both modes.
    """

    mask_decoder = "flmm.DecodeMasks"
    orientation: Orientation = "stored"

    def __init__(
        self,
        *args: Any,
        image_processor: dict[str, Any] | None = None,
        pipeline: list[Any] | None = None,
        seed: int = 0,
        redraw: bool = True,
        bad_records: str = "stop",
        **kwargs: Any,
    ) -> None:
        check_choice("bad_records", bad_records, ("stop", "skip"))
        if image_processor is not None:
            if pipeline is not None:
                raise ValueError("give image_processor (standard pipeline) or pipeline, not both")
            drop = [] if kwargs.get("test_mode") else [dict(type="flmm.DropEmptyMasks")]
            pipeline = [
                dict(type="flmm.LoadRGBImage", orientation=self.orientation),
                dict(type=self.mask_decoder),
                *drop,
                dict(type="flmm.EncodeImage", image_processor=image_processor),
                dict(type="flmm.PackGroundingInputs"),
            ]
        self.seed = seed
        self.redraw = redraw
        self.bad_records = bad_records
        self.skipped: list[SkippedExpression] = []
        # In shared memory: workers that live through several epochs read it too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        super().__init__(*args, pipeline=pipeline or [], **kwargs)

    @property
    def source(self) -> str:
        """What messages call the data: name of the file."""
        return Path(self.ann_file).name

    def build_record(self, idx: int) -> dict[str, Any]:
        """The record of image ``idx``, with the keys that the pipeline and
        :func:`flmm.data.samples.build_sample` want; neither picture nor masks are read."""
        raise NotImplementedError(f"{type(self).__name__} must define build_record(idx)")

    def prepare_data(self, idx: int) -> Any:
        """Build the record of image ``idx`` and run the pipeline."""
        return self.pipeline(self.build_record(idx))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the draws; :class:`EpochSampler` calls it."""
        if self.redraw:
            self._epoch.fill_(epoch)

    def start_draw(self, idx: int) -> np.random.Generator:
        """Randomness of ``(seed, epoch, idx)``: the same on every rank and after a resume."""
        return np.random.default_rng([self.seed, int(self._epoch), idx])

    def reject(
        self, reason: str, image_id: int | str, expression_ids: Iterable[int | str] = ()
    ) -> None:
        """At load: raise ``BadRecordError`` because of these expressions, or leave them out."""
        if self.bad_records == "stop":
            raise BadRecordError(f"{reason}; {WAY_OUT}")
        self.leave_out(reason, image_id, expression_ids)

    def leave_out(
        self, reason: str, image_id: int | str, expression_ids: Iterable[int | str]
    ) -> None:
        """At load: note in ``skipped`` that these expressions are left out, in both modes."""
        self.skipped += [SkippedExpression(item, image_id, reason) for item in expression_ids]

    def full_init(self) -> None:
        """Load the records and tell in one warning what is left out."""
        if self._fully_initialized:
            return
        self.skipped = []
        super().full_init()
        # Shared with workers, also those that live through several epochs.
        self._marks = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def filter_data(self) -> list[dict[str, Any]]:
        """The loaded records; tells what was left out, and stops if no record is left."""
        records = super().filter_data()
        if self.skipped:
            print_log(_summarise(self.skipped), logger="current", level=logging.WARNING)
        if not records:
            raise ValueError(f"{self.source}: no record can be used. {_summarise(self.skipped)}")
        return records

    def __getitem__(self, idx: int) -> Any:
        """The item of image ``idx``; see ``bad_records`` for what comes in place of a bad one."""
        if self.bad_records == "skip" and not self.test_mode:
            return self._read_next_usable(idx)
        try:
            return self._read(idx)
        except BadRecordError as error:
            if self.bad_records == "stop":
                raise type(error)(f"{error}; {WAY_OUT}") from error
            record = {**self.build_record(idx), "skipped": str(error)}
            return {"inputs": None, "data_samples": build_sample(record)}

    def count_unusable(self) -> dict[str, int]:
        """How many records any worker of this rank could not use (``unusable``) in training, or
        had to take expressions from (``with_empty_masks``)."""
        flags = {"unusable": _UNUSABLE, "with_empty_masks": _WITH_EMPTY_MASKS}
        return {name: int((self._marks & flag).count_nonzero()) for name, flag in flags.items()}

    def _read(self, idx: int) -> Any:
        """The item of image ``idx``, and word of expressions that are not trained on."""
        item = super().__getitem__(idx)
        sample = item.get("data_samples") if isinstance(item, dict) else None
        if sample is not None and sample.get("left_out"):
            self._tell(
                idx,
                _WITH_EMPTY_MASKS,
                f"{self.source}: the true masks of expressions {sample.left_out} of image "
                f"{sample.image_id} are empty; they are not trained on",
            )
        return item

    def _read_next_usable(self, idx: int) -> Any:
        """The item of the first usable record from ``idx`` on; the same one every time."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f"{self.source} has {len(self)} records, there is no record {idx}")
        tries = min(MAX_BAD_IN_A_ROW, len(self))
        last: BadRecordError | None = None
        for offset in range(tries):
            position = (idx + offset) % len(self)
            try:
                return self._read(position)
            except BadRecordError as error:
                last = error
                self._tell(
                    position,
                    _UNUSABLE,
                    f"{self.source}: record {position} is skipped, the next usable one takes its "
                    f"place: {error}",
                )
        raise BadRecordError(
            f"{self.source}: {tries} records in a row, from {idx} on, cannot be used: check the "
            f"folders and files of this data set; the last one: {last}"
        ) from last

    def _tell(self, idx: int, mark: int, message: str) -> None:
        """Log what happened to a record, once for all workers and epochs."""
        if not int(self._marks[idx]) & mark:
            self._marks[idx] |= mark
            print_log(message, logger="current", level=logging.ERROR)


def _summarise(skipped: list[SkippedExpression]) -> str:
    """How many expressions are left out, and the first reasons."""
    reasons = list(dict.fromkeys(item.reason for item in skipped))
    more = len(reasons) - _REASONS_SHOWN
    shown = "; ".join(reasons[:_REASONS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    count = "1 expression is" if len(skipped) == 1 else f"{len(skipped)} expressions are"
    return f"{count} left out" + (f": {shown}" if shown else "")


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` (same arguments) that tells the data sets which epoch begins.

    So a data set that draws a sentence per epoch draws the same one on every rank, in every worker
    and after a resume; and a resumed training goes on in the middle of an epoch without reading the
    pictures that come before.
    """

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


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise a ``ValueError`` that names the argument and its choices."""
    if value not in choices:
        raise ValueError(f"{name} is one of {choices}, got {value!r}")


def draw_at_most(
    rng: np.random.Generator, items: Sequence[Item], limit: int | None
) -> Sequence[Item]:
    """All items, or ``limit`` of them in their order."""
    if limit is None or len(items) <= limit:
        return items
    kept = rng.choice(len(items), limit, replace=False)
    return [items[index] for index in sorted(kept)]
