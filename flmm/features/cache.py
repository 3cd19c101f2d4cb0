"""The feature cache: what frozen models computed for a picture and its phrases, computed once.

In: a picture and its continuations. Out: what is known of them, and what is still to be computed;
what is then computed is kept. Two folders lie in the cache's own, one for the reader's settings
and one for the refiner's, each named by a hash of all that could change its content.
Not its duty: computing anything.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from flmm.features.budget import DiskBudget, format_gb
from flmm.features.entries import EntryFolder
from flmm.features.half_precision import STORAGE_DTYPES, pack_tensor, unpack_tensors
from flmm.features.phrases import pack_phrases, split_phrases, unpack_phrases
from flmm.fingerprints import (
    fingerprint_reader,
    hash_continuation,
    hash_image_input,
    hash_json,
    hash_picture,
)
from flmm.masks import ImageEncoding, Refiner
from flmm.records import Continuation, ImageInput, PhraseAttention, join_attention

FORMAT = 3  # of the entries; another number leaves older ones unread
_SETTINGS_FILE = "settings.json"


@dataclass
class PhraseLookup:
    """What the cache knows of a picture's continuations.

    Attributes:
        cache: where it was looked up.
        keys: one per continuation.
        continuations: as they were asked.
        found: one per continuation; ``None``: unknown.
    """

    cache: FeatureCache
    keys: list[str]
    continuations: list[Continuation]
    found: list[PhraseAttention | None]

    @property
    def missing(self) -> list[Continuation]:
        """The continuations that must be computed."""
        return [item for item, known in zip(self.continuations, self.found) if known is None]

    def complete(self, computed: PhraseAttention | None) -> PhraseAttention:
        """All continuations in order; what was computed is kept.

        Args:
            computed: of ``missing``, in its order; ``None`` where nothing is missing.
        """
        new = iter([] if computed is None else split_phrases(computed, self.missing))
        parts = []
        for key, known in zip(self.keys, self.found):
            if known is None:
                known = next(new)
                self.cache.keep_phrases(key, known)
            parts.append(known)
        return join_attention(parts)


class FeatureCache:
    """Attention maps, text features and image encodings on disk.

    Every weight of the frozen models is hashed here, once; they must not change afterwards.

    Args:
        folder: of the cache; any number of processes and trainings may share it.
        reader: the frozen reader.
        refiner: the refiner whose image encodings are kept; ``None``: none are.
        dtype: "float16" (see ``half_precision``) or "float32" (exact).
        max_gb: limit of the whole folder, in 10**9 bytes.

    Attributes:
        phrases: entries of the reader.
        encodings: entries of the refiner, or ``None``.
        budget: room that is left.

    Raises:
        ValueError: an argument has an impossible value, or weights cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        reader: Any,
        refiner: Refiner | None = None,
        dtype: str = "float16",
        max_gb: float = 200.0,
    ) -> None:
        if dtype not in STORAGE_DTYPES:
            raise ValueError(f"feature_cache.dtype is {dtype!r}: give 'float16' or 'float32'")
        if not max_gb > 0:
            raise ValueError(f"feature_cache.max_gb is {max_gb!r}: give a number above 0")
        self.folder = Path(folder)
        self.reader = reader
        self.refiner = refiner
        self.dtype = dtype
        self.budget = DiskBudget(self.folder, max_gb)
        start = time.perf_counter()
        settings, size = fingerprint_reader(reader)
        self.phrases = self._open("reader", settings)
        self.encodings: EntryFolder | None = None
        if refiner is not None:
            settings = refiner.describe()
            self.encodings = self._open("refiner", settings)
            size += settings["weight_bytes"]
        seconds = time.perf_counter() - start
        print_log(
            f"feature cache: hashed {format_gb(size)} of frozen weights in {seconds:.1f} s",
            logger="current",
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        return self  # a copy of the grounder, such as an average of its weights, shares it

    @property
    def folders(self) -> list[EntryFolder]:
        """Where entries of these settings lie."""
        return [self.phrases] if self.encodings is None else [self.phrases, self.encodings]

    def find_phrases(self, image: ImageInput, continuations: list[Continuation]) -> PhraseLookup:
        """What is known of a picture's continuations; maps and features on the reader's device."""
        picture = hash_image_input(image)
        keys = [hash_continuation(picture, item) for item in continuations]
        stored = [self.phrases.get(key) for key in keys]
        device = self.reader.device
        found = [None if item is None else unpack_phrases(item, device) for item in stored]
        return PhraseLookup(self, keys, list(continuations), found)

    def keep_phrases(self, key: str, seen: PhraseAttention) -> None:
        """Keep what was computed for one continuation."""
        if not self.budget.is_spent:
            self.phrases.put(key, pack_phrases(seen, self.dtype))

    def find_encoding(self, image: ImageInput) -> tuple[str, ImageEncoding | None]:
        """A key, and the picture's encoding on the refiner's device where known.

        What was encoded under autocast is another than what was in full precision.
        """
        if self.refiner is None or self.encodings is None:
            raise ValueError("this feature cache keeps no image encodings")
        device = self.refiner.device
        is_autocast = torch.is_autocast_enabled(device.type)
        precision = str(torch.get_autocast_dtype(device.type)) if is_autocast else "own"
        key = hash_json([hash_picture(image.image), precision])
        stored = self.encodings.get(key)
        if stored is None:
            return key, None
        return key, self.refiner.unpack(unpack_tensors(stored, device), image.original_size)

    def keep_encoding(self, key: str, encoding: ImageEncoding) -> None:
        """Keep an encoding under the key that ``find_encoding`` gave."""
        if self.refiner is None or self.encodings is None or self.budget.is_spent:
            return
        entry: dict[str, Tensor] = {}
        for name, values in self.refiner.pack(encoding).items():
            entry |= pack_tensor(name, values, self.dtype, row_dims=2)
        self.encodings.put(key, entry)

    def _open(self, kind: str, settings: dict[str, Any]) -> EntryFolder:
        """The folder of these settings, which are written into it for people to read."""
        settings = {"format": FORMAT, "dtype": self.dtype, **settings}
        folder = self.folder / f"{kind}-{hash_json(settings)}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _SETTINGS_FILE).exists():
            text = json.dumps(settings, indent=1, sort_keys=True, default=str)
            (folder / _SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        return EntryFolder(folder, self.budget)


__all__ = ["FeatureCache", "PhraseLookup"]
