"""What data sets of pictures and phrases share: the standard pipeline, and draws by epoch.

Data in: a config of the reader's image processor. Data out: the pipeline's steps, and a source of
randomness per item that is the same on every rank, in every worker and after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from flmm.data.bad_records import BadRecordsMixin

Item = TypeVar("Item")


class GroundingDataset(BadRecordsMixin):
    """A data set whose items are pictures with phrases and their true masks.

    Args:
        image_processor: config of the reader's image processor; makes the standard pipeline, which
            keeps phrases with an empty true mask in ``test_mode`` and leaves them out of training.
        pipeline: a pipeline of one's own instead.
        seed: of the draws.
        redraw: draw anew in every epoch; otherwise from ``(seed, index)`` alone, so that every
            epoch asks the same (for ``feature_cache``).
        *args, **kwargs: of :class:`BadRecordsMixin` (``bad_records``) and mmengine's
            ``BaseDataset``.

    Attributes:
        mask_decoder: name of the transform that writes ``gt_masks``.
    """

    mask_decoder = "flmm.DecodeMasks"

    def __init__(
        self,
        *args: Any,
        image_processor: dict[str, Any] | None = None,
        pipeline: list[Any] | None = None,
        seed: int = 0,
        redraw: bool = True,
        **kwargs: Any,
    ) -> None:
        if image_processor is not None:
            if pipeline is not None:
                raise ValueError("give image_processor (standard pipeline) or pipeline, not both")
            drop = [] if kwargs.get("test_mode") else [dict(type="flmm.DropEmptyMasks")]
            pipeline = [
                dict(type="flmm.LoadRGBImage"),
                dict(type=self.mask_decoder),
                *drop,
                dict(type="flmm.EncodeImage", image_processor=image_processor),
                dict(type="flmm.PackGroundingInputs"),
            ]
        self.seed = seed
        self.redraw = redraw
        # In shared memory: workers that live through several epochs read it too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        super().__init__(*args, pipeline=pipeline or [], **kwargs)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the draws; :class:`flmm.data.sampler.EpochSampler` calls it."""
        if self.redraw:
            self._epoch.fill_(epoch)

    def start_draw(self, idx: int) -> np.random.Generator:
        """The randomness of item ``idx`` in this epoch: of ``(seed, epoch, idx)``."""
        return np.random.default_rng([self.seed, int(self._epoch), idx])


def draw_at_most(
    rng: np.random.Generator, items: Sequence[Item], limit: int | None
) -> Sequence[Item]:
    """All items, or ``limit`` of them in their order."""
    if limit is None or len(items) <= limit:
        return items
    kept = rng.choice(len(items), limit, replace=False)
    return [items[index] for index in sorted(kept)]
