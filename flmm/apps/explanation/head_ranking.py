"""Which heads of a frozen reader point best, on a labelled set.

Memory does not grow with the set: sums per head are kept. For a phrase with the true mask M, which
covers ``c[i, j]`` of each cell, and a head that puts the weight ``m[i, j]`` on cell ``(i, j)``:

- **inside share**: ``sum(m * c) / sum(m)``, mean over phrases. A head that looks everywhere alike
  has the mask's share of the picture.
- **hit rate**: the pointing game; share of phrases where the cell of the greatest weight touches
  the mask (``c > 0``). A cell takes the place of the 15 px that the game usually forgives.

Source: pointing game, Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor
from tqdm import tqdm

from flmm.apps.explanation.reading import Head, compute_mask_coverage, merge_grids
from flmm.files import replace_file
from flmm.readers import FrozenVLM
from flmm.registry import DATASETS, MODELS
from flmm.tables import format_text

MEASURES = ("inside_share", "hit_rate")


@dataclass(frozen=True)
class RankedHead:
    """A head, counted from 0, and how well it points: both figures in [0, 1]."""

    layer: int
    head: int
    inside_share: float
    hit_rate: float


@dataclass(frozen=True)
class HeadRanking:
    """Heads of a reader, most pointing first.

    Attributes:
        reader: which reader, in words.
        measure: what they are ranked by, ``"inside_share"`` or ``"hit_rate"``.
        skipped: phrases that were not counted: their record is bad, or their mask is empty.
        chance: both figures of attention that is the same everywhere (for the hit rate: of a
            cell drawn at random).
    """

    reader: str
    num_layers: int
    num_heads: int
    measure: str
    heads: list[RankedHead]
    phrases: int
    skipped: int
    chance: dict[str, float]

    def best(self, count: int = 8) -> list[Head]:
        """(layer, head) of the best ones, for ``explain(chat, heads=...)``."""
        if count < 1:
            raise ValueError(f"{count} best heads are asked for: give 1 or more")
        return [(item.layer, item.head) for item in self.heads[:count]]

    def format_table(self, count: int = 20) -> str:
        """The best heads as a plain-text table in percent, chance as the last row."""
        rows: list[list[Any]] = [["rank", "layer", "head", "inside share %", "hit rate %"]]
        for place, item in enumerate(self.heads[:count], start=1):
            figures = [100 * getattr(item, name) for name in MEASURES]
            rows.append([place, item.layer, item.head, *figures])
        chance = [100 * self.chance[name] for name in MEASURES]
        return format_text([*rows, ["-", "chance", "", *chance]])

    def save_json(self, path: str | Path) -> Path:
        """Write everything; :func:`load_head_ranking` reads it."""
        replace_file(path, f"{json.dumps(asdict(self), indent=1)}\n".encode())
        return Path(path)


def load_head_ranking(path: str | Path) -> HeadRanking:
    """What :meth:`HeadRanking.save_json` wrote; ValueError for any other file."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        heads = [RankedHead(**item) for item in fields.pop("heads")]
        return HeadRanking(heads=heads, **fields)
    except FileNotFoundError:
        raise FileNotFoundError(f"head ranking {path} does not exist") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no ranking of heads ({error}): make one with tools/rank_heads.py"
        ) from error


@torch.inference_mode()
def rank_heads(
    vlm: FrozenVLM, samples: Iterable[dict[str, Any]], measure: str = "inside_share"
) -> HeadRanking:
    """Rank a reader's heads on a labelled set; no trained head is needed.

    Args:
        samples: items of a data set: ``dict(inputs=ImageInput | None, data_samples=
            GroundingSample)`` with ``gt_masks``; read one after the other.
        measure: ``"inside_share"`` or ``"hit_rate"``.

    Raises:
        ValueError: the measure is unknown, or there is no phrase with a mask.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}: use one of {', '.join(MEASURES)}")
    sums = torch.zeros(len(MEASURES), vlm.num_maps, dtype=torch.float64)
    chance = torch.zeros(len(MEASURES), dtype=torch.float64)
    phrases = skipped = 0
    for sample in samples:
        image, truth = sample["inputs"], sample["data_samples"]
        if image is None:
            skipped += len(truth.phrases)
            continue
        seen = vlm.attend(vlm.prefill(image), truth.continuations)
        maps = merge_grids(seen.grid_maps, image).cpu()
        coverage = compute_mask_coverage(truth.gt_masks, (maps.shape[-2], maps.shape[-1]))
        kept = coverage.flatten(1).sum(1) > 0
        figures, expected = _measure(maps[kept].double(), coverage[kept])
        sums += figures
        chance += expected
        phrases += int(kept.sum())
        skipped += int((~kept).sum())
    if not phrases:
        raise ValueError(
            f"the set holds no phrase with a mask to rank heads on ({skipped} were skipped): give "
            "another split or folder"
        )
    heads = [
        RankedHead(*divmod(channel, vlm.num_heads), *own)
        for channel, own in enumerate((sums / phrases).T.tolist())
    ]
    heads.sort(key=lambda item: -getattr(item, measure))
    named = dict(zip(MEASURES, (chance / phrases).tolist()))
    return HeadRanking(
        vlm.extra_repr(), vlm.num_layers, vlm.num_heads, measure, heads, phrases, skipped, named
    )


def _measure(maps: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over phrases: ``[2, L*A]`` of both measures, ``[2]`` of chance."""
    maps, coverage = maps.flatten(2), coverage.flatten(1)
    shares = torch.einsum("pcn,pn->pc", maps, coverage) / maps.sum(2).clamp(min=1e-30)
    touched = (coverage > 1e-6).double()  # less is rounding
    hits = touched.gather(1, maps.argmax(2))
    chance = torch.stack([coverage.mean(1).sum(), touched.mean(1).sum()])
    return torch.stack([shares.sum(0), hits.sum(0)]), chance


def build_reader(config: Config, device: str | None = None) -> FrozenVLM:
    """The frozen reader of a config, without mask head and refiner; on a GPU where there is one."""
    init_default_scope("flmm")
    vlm: FrozenVLM = MODELS.build(config.model.model)
    return vlm.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def load_samples(
    config: Config, loader: str = "val", split: str | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Items of the data set of a config's ``val_dataloader`` or ``test_dataloader``."""
    entry = config.get(f"{loader}_dataloader")
    if not entry:
        raise ValueError(f"{config.filename} has no {loader}_dataloader: choose another --loader")
    init_default_scope("flmm")
    cfg = {**entry.dataset, "bad_records": "skip"} | ({"split": split} if split else {})
    dataset = DATASETS.build(cfg)
    count = min(len(dataset), limit or len(dataset))
    items = (dataset[index] for index in range(count))
    return iter(tqdm(items, total=count, unit="image"))
