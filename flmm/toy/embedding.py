"""Turns what training left into what the package ships.

In: a trained reader's folder, a checkpoint of ``tools/train.py``. Out: the reader in bfloat16
without logs, the head as heads are shared.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from flmm.config import load_config
from flmm.config.names import TINY_CONFIG
from flmm.sharing.exporting import export_checkpoint
from flmm.sharing.head_files import CARD_FILE
from flmm.toy.reader_training import load_reader


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


def embed_head(start: Path, out: Path) -> int:
    """Save a checkpoint of the toy's config as the shared head ``"tiny"``, without a card.

    Returns:
        size of the new folder in bytes.
    """
    export_checkpoint(load_config(TINY_CONFIG), start, out, overwrite=True)
    (out / CARD_FILE).unlink()
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.2f} MB")
    return size
