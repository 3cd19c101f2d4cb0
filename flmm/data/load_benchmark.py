"""What loading a published data set costs: time and memory, beside mmdet's own loader.

Data in: a data root with RefCOCO's two files. Data out: seconds and MiB per loader and split. Each
measurement has a process of its own, so that none profits from or pays for another. Linux only:
memory is read from ``/proc``.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flmm.data.published import REFER_DATASETS

LOADERS = ("flmm", "mmdet")


@dataclass(frozen=True)
class LoadCost:
    """What one loader took for one split.

    Attributes:
        loader, split: what was measured.
        load_s, load_cpu_s: from the files to the data set, seconds on the clock and of the
            processor.
        peak_mib: most memory while loading, above the process after its imports.
        held_mib: memory after loading, above the same; what every copied process starts from.
        iterate_s: one pass over all records without opening pictures, seconds.
        images, sentences: how many the loader gives.
    """

    loader: str
    split: str
    load_s: float
    load_cpu_s: float
    peak_mib: float
    held_mib: float
    iterate_s: float
    images: int
    sentences: int


def measure_loading(root: str | Path, loader: str, split: str) -> LoadCost:
    """Measure one loader on one split, in a new process.

    Args:
        root: data root with ``refcoco/instances.json`` and ``refcoco/refs(unc).p``.
        loader: one of ``LOADERS``.
        split: of the refs file.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return LoadCost(**pool.apply(_measure, (str(root), loader, split)))


def _measure(root: str, loader: str, split: str) -> dict[str, Any]:
    dataset_class, text_mode = _import_loader(loader)
    files = REFER_DATASETS["refcoco"]
    gc.collect()
    _reset_peak()
    before = _read_memory()["VmRSS"]
    start, cpu_start = time.perf_counter(), time.process_time()
    dataset = dataset_class(
        data_root=root,
        ann_file=files.ann_file,
        split_file=files.split_file,
        data_prefix={"img_path": f"{files.image_folder}/"},
        split=split,
        text_mode=text_mode,
        pipeline=[],
    )
    load_s, load_cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    gc.collect()
    memory = _read_memory()
    start = time.perf_counter()
    sentences = sum(_count_sentences(dataset[index]) for index in range(len(dataset)))
    iterate_s = time.perf_counter() - start
    cost = LoadCost(
        loader=loader,
        split=split,
        load_s=load_s,
        load_cpu_s=load_cpu_s,
        peak_mib=memory["VmHWM"] - before,
        held_mib=memory["VmRSS"] - before,
        iterate_s=iterate_s,
        images=len(dataset),
        sentences=sentences,
    )
    return asdict(cost)


def _import_loader(loader: str) -> tuple[Any, str]:
    """The data set's class and what it calls "every sentence"; both import mmdet."""
    from flmm.data.refcoco import TEXT_MODES, RefCocoDataset, RefCocoGroundingDataset

    if loader == "flmm":
        return RefCocoGroundingDataset, "all"
    return RefCocoDataset, TEXT_MODES["all"]


def _count_sentences(record: dict[str, Any]) -> int:
    """Of a record of ours, or of mmdet's."""
    return len(record["expression_ids"] if "expression_ids" in record else record["text"])


def _reset_peak() -> None:
    """Forget the most memory so far: importing takes more than it keeps."""
    Path("/proc/self/clear_refs").write_text("5")


def _read_memory() -> dict[str, float]:
    """This process's memory in MiB: now (VmRSS) and at most (VmHWM)."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {line[0][:-1]: int(line[1]) / 1024 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}


def format_table(costs: list[LoadCost]) -> str:
    """A Markdown table, one line per measurement."""
    lines = [
        "| split | loader | load [s] | CPU [s] | peak [MiB] | held [MiB] | pass over records [s] "
        "| images | sentences |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cost.split} | {cost.loader} | {cost.load_s:.1f} | {cost.load_cpu_s:.1f} | "
        f"{cost.peak_mib:.0f} | {cost.held_mib:.0f} | {cost.iterate_s:.2f} | {cost.images:,} | "
        f"{cost.sentences:,} |"
        for cost in costs
    ]
    return "\n".join(lines)


__all__ = ["LOADERS", "LoadCost", "format_table", "measure_loading"]
