"""Which data sets and splits an evaluation has: what a config lists, as configs of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from flmm.evaluation.protocols import PROTOCOLS

Cfg = dict[str, Any]
SplitCfgs = dict[tuple[str, str], Cfg]
_LAYOUT = "RefCocoGroundingDataset"
_FILES = ("ann_file", "split_file")
# What a data set of its own has of the config's.
_SHARED = ("data_root", "image_processor")


def list_referring_splits(
    config: Config, datasets: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> SplitCfgs:
    """The splits of the data sets in ``config.eval_datasets``; names to keep, ``None``: all.

    Data sets with ``on_request=True`` are kept only where they are named.

    Raises:
        ValueError: the config names none, or not these.
    """
    base = _find_base(config)
    return _choose_splits(
        {
            name: {split: _build_cfg(base, entry, split) for split in entry["splits"]}
            for name, entry in _choose(config.get("eval_datasets"), datasets).items()
        },
        splits,
    )


def _find_base(config: Config) -> Cfg:
    """What the entries add to: the first data set in RefCOCO's layout, from the test data on."""
    loaders = [config.get(f"{name}_dataloader") for name in ("test", "val", "train")]
    found = [loader.dataset for loader in loaders if loader]
    return next((item for item in found if item.get("type") == _LAYOUT), found[0])


def _build_cfg(base: Cfg, entry: Cfg, split: str) -> Cfg:
    """One split of an entry of ``eval_datasets``."""
    if "dataset" in entry:
        return {
            **{key: base[key] for key in _SHARED if key in base},
            **entry["dataset"],
            "split": split,
        }
    whole = {"text_mode": "all", "joined": False, "max_expressions": None}
    return {**base, **whole, **{key: entry[key] for key in _FILES}, "split": split}


def list_narrative_splits(
    config: Config, datasets: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> SplitCfgs:
    """As :func:`list_referring_splits`, of those in ``config.eval_png_datasets``."""
    base = {"image_processor": config.test_dataloader.dataset.image_processor}
    return _choose_splits(
        {
            name: {split: {**base, **cfg} for split, cfg in parts.items()}
            for name, parts in _choose(config.get("eval_png_datasets"), datasets).items()
        },
        splits,
    )


def get_protocols(config: Config, dataset: str, chosen: Sequence[str]) -> tuple[str, ...]:
    """The protocols of a data set: its own (``protocols`` of its entry), else the chosen ones."""
    entry = (config.get("eval_datasets") or {}).get(dataset, {})
    names = tuple(entry.get("protocols", chosen))
    unknown = sorted(set(names) - set(PROTOCOLS))
    if unknown:
        raise ValueError(
            f"eval_datasets: {dataset} is asked under protocol {', '.join(unknown)}: choose from "
            f"{', '.join(PROTOCOLS)}"
        )
    return names


def _choose(entries: Mapping[str, Any] | None, names: Sequence[str] | None) -> dict[str, Any]:
    """The entries with the names, in the config's order."""
    if not entries:
        raise ValueError(
            "the config names no data sets to evaluate on: set eval_datasets (referring "
            "segmentation) or eval_png_datasets, see docs/evaluation.md"
        )
    unknown = sorted(set(names or ()) - set(entries))
    if unknown:
        raise ValueError(f"--datasets {', '.join(unknown)}: the config has {', '.join(entries)}")
    if names is None:
        return {name: item for name, item in entries.items() if not item.get("on_request")}
    return {name: item for name, item in entries.items() if name in names}


def _choose_splits(cfgs: dict[str, dict[str, Cfg]], names: Sequence[str] | None) -> SplitCfgs:
    chosen = {
        (name, split): cfg
        for name, parts in cfgs.items()
        for split, cfg in parts.items()
        if names is None or split in names
    }
    if not chosen:
        raise ValueError(f"--splits {', '.join(names or ())}: no chosen data set has such a split")
    return chosen


def list_files(cfg: Cfg) -> list[Path]:
    """The annotation files of a data set's config; without such keys those beside its pictures."""
    keys = (*_FILES, "panoptic_json")
    files = [Path(cfg["data_root"], cfg[key]) for key in keys if cfg.get(key)]
    if files:
        return files
    folder = Path(cfg["data_root"], cfg["data_prefix"]["img_path"], cfg["split"])
    return sorted(folder.glob("*.json")) or [folder / "*.json"]


def check_files(cfgs: SplitCfgs) -> None:
    """Refuse to begin where a data set's file is missing.

    Raises:
        FileNotFoundError: with all that are missing.
    """
    missing = {
        str(path): f"  {path} ({name})"
        for (name, _), cfg in cfgs.items()
        for path in list_files(cfg)
        if not path.is_file()
    }
    if missing:
        raise FileNotFoundError(
            "missing files:\n" + "\n".join(missing.values()) + "\nlay them out as docs/data.md "
            "says, give --cfg-options data_root=..., or choose others with --datasets"
        )
