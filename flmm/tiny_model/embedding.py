"""Turns a trained reader's folder into the one that the package ships: bfloat16, no logs."""

from __future__ import annotations

import shutil
from pathlib import Path

from flmm.tiny_model.reader_training import load_reader


def embed_reader(start: Path, out: Path) -> int:
    """Save model (bfloat16), tokenizer and processor of ``start`` under ``out``.

    Returns:
        size of the new folder in bytes.
    """
    model, processor = load_reader(start)
    if out.exists():
        shutil.rmtree(out)
    model.bfloat16().save_pretrained(out)
    processor.save_pretrained(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.2f} MB")
    return size
