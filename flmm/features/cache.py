"""The feature cache: what frozen models computed for a picture and its phrases, computed once.

Two folders lie in the cache's own, one for the reader's settings and one for the refiner's, each
named by a hash of all that could change its content.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from flmm.features.entries import DiskBudget, EntryFolder, format_gb
from flmm.features.half_precision import STORAGE_DTYPES, pack_tensors, unpack_tensors
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
_MAPS = "maps_"


# What computes: pictures and what is asked of each to what was seen; pictures to encodings.
Read = Callable[[list[ImageInput], list[list[Continuation]]], list[PhraseAttention]]
Encode = Callable[[list[np.ndarray]], list[ImageEncoding]]


class FeatureCache:
    """Attention maps, text features and image encodings on disk.

    Every weight of the frozen models is hashed here, once; they must not change afterwards.

    Args:
        folder: of the cache; any number of processes and trainings may share it.
        reader: the frozen reader.
        refiner: the refiner whose image encodings are kept; ``None``: none are.
        dtype: "float16" (see ``half_precision``) or "float32" (exact).
        max_gb: limit of the whole folder, in 10**9 bytes.
        layers: how many of the reader's first layers are read; ``None``: all.

    Attributes:
        phrases: entries of the reader.
        encodings: entries of the refiner, or ``None``.
        budget: room that is left.
    """

    def __init__(
        self,
        folder: str | Path,
        reader: Any,
        refiner: Refiner | None = None,
        dtype: str = "float16",
        max_gb: float = 200.0,
        layers: int | None = None,
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
        if layers not in (None, reader.num_layers):
            settings["layers"] = layers
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

    def read_phrases(
        self, images: Sequence[ImageInput], continuations: Sequence[list[Continuation]], read: Read
    ) -> list[PhraseAttention]:
        """Where the phrases of pictures look: as is known, else as is read, which is kept.

        ``read`` is asked once, about the pictures of which something is unknown and that alone.
        """
        keys: list[list[str]] = []
        known: dict[str, Any] = {}
        for image, texts in zip(images, continuations):
            picture = hash_image_input(image)
            keys.append([hash_continuation(picture, text) for text in texts])
            known |= {key: self._find_phrases(key) for key in keys[-1]}
        missing = [
            {key: text for key, text in zip(own, texts) if known[key] is None}
            for own, texts in zip(keys, continuations)
        ]
        unread = [index for index, own in enumerate(missing) if own]
        asked = [list(missing[index].values()) for index in unread]
        seen = read([images[index] for index in unread], asked) if unread else []
        for index, texts, attention in zip(unread, asked, seen):
            for key, part in zip(missing[index], split_phrases(attention, texts)):
                known[key] = part
                if not self.budget.is_spent:
                    self.phrases.put(key, pack_phrases(part, self.dtype))
        return [join_attention([known[key] for key in own]) for own in keys]

    def encode(self, images: Sequence[ImageInput], encode: Encode) -> list[ImageEncoding]:
        """Pictures as the refiner sees them: as is known, else as is encoded, which is kept.

        What was encoded under autocast is another than what was in full precision. ``encode`` is
        asked once, for those that are unknown.
        """
        if self.refiner is None or self.encodings is None:
            return encode([image.image for image in images])
        device = self.refiner.device
        is_autocast = torch.is_autocast_enabled(device.type)
        precision = str(torch.get_autocast_dtype(device.type)) if is_autocast else "own"
        keys = [hash_json([hash_picture(image.image), precision]) for image in images]
        stored = [self.encodings.get(key) for key in keys]
        computed = iter(encode([i.image for i, entry in zip(images, stored) if entry is None]))
        found = []
        for image, key, entry in zip(images, keys, stored):
            if entry is not None:
                tensors = unpack_tensors(entry, device)
                found.append(self.refiner.unpack(tensors, image.original_size))
                continue
            found.append(next(computed))
            if not self.budget.is_spent:
                packed = self.refiner.pack(found[-1])
                self.encodings.put(key, pack_tensors(packed, self.dtype, row_dims=2))
        return found

    def _find_phrases(self, key: str) -> PhraseAttention | None:
        """Maps and features on the reader's device."""
        entry = self.phrases.get(key)
        return None if entry is None else unpack_phrases(entry, self.reader.device)

    def _open(self, kind: str, settings: dict[str, Any]) -> EntryFolder:
        """The folder of these settings, which are written into it for people to read."""
        settings = {"format": FORMAT, "dtype": self.dtype, **settings}
        folder = self.folder / f"{kind}-{hash_json(settings)}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _SETTINGS_FILE).exists():
            text = json.dumps(settings, indent=1, sort_keys=True, default=str)
            (folder / _SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")
        return EntryFolder(folder, self.budget)


def split_phrases(
    seen: PhraseAttention, continuations: Sequence[Continuation]
) -> list[PhraseAttention]:
    """One record for each continuation."""
    parts, start = [], 0
    for position, item in enumerate(continuations):
        rows = slice(start, start + len(item.spans or ()))
        own = slice(position, position + 1)
        ids, states = seen.input_ids[own], seen.hidden_states[own]
        parts.append(replace(seen.select(rows), input_ids=ids, hidden_states=states))
        start = rows.stop
    return parts


def pack_phrases(seen: PhraseAttention, storage: str) -> dict[str, Tensor]:
    """The phrases of one continuation as a file holds them, perhaps with ``hidden_states``."""
    maps = {f"{_MAPS}{number:03d}": own for number, own in enumerate(seen.grid_maps)}
    rows = {"text_features": torch.cat(seen.text_features, dim=1)}  # [L, tokens of all phrases, D]
    if seen.hidden_states and seen.hidden_states[0] is not None:
        rows["hidden_states"] = seen.hidden_states[0]
    lengths = [item.shape[1] for item in seen.text_features]
    return {
        **pack_tensors(maps, storage, row_dims=2),
        **pack_tensors(rows, storage, row_dims=1),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "input_ids": seen.input_ids[0].to("cpu", torch.int32),
    }


def unpack_phrases(stored: dict[str, Tensor], device: torch.device) -> PhraseAttention:
    """The phrases of one continuation, on ``device``."""
    tensors = unpack_tensors(stored, device)
    return PhraseAttention(
        grid_maps=[tensors[name] for name in sorted(tensors) if name.startswith(_MAPS)],
        text_features=list(tensors["text_features"].split(stored["lengths"].tolist(), dim=1)),
        input_ids=[tensors["input_ids"].to(torch.int64)],
        hidden_states=[tensors.get("hidden_states")],
    )
