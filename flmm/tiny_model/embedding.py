"""Turns what training left into what the package ships.

In: a trained reader's folder, a checkpoint of ``tools/train.py``. Out: the reader in bfloat16
without logs, the head's weights alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from flmm.engine.checkpoint import load_checkpoint
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


def embed_head(start: Path, out: Path) -> int:
    """Save the weights of a checkpoint, and nothing else of it, as safetensors.

    Returns:
        size of the new file in bytes.
    """
    weights = load_checkpoint(start)["state_dict"]
    save_file({key: value.contiguous() for key, value in weights.items()}, str(out))
    size = out.stat().st_size
    print(f"{out}: {size / 1e6:.2f} MB")
    return size
