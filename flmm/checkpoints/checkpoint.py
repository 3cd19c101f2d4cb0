"""Trained weights on disk: saving, safe reading, loading that names what does not fit.

A ``.pth`` file is only ever read with ``weights_only=True``: it carries weights and no code.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import load_file, save
from torch import Tensor, nn

from flmm.files import replace_file
from flmm.weights import describe_mismatch

# Weights that come with the package, by the name a config gives them.
EMBEDDED_WEIGHTS = {"tiny": "tiny_head/model.safetensors"}
HISTORY_METHODS = ("min", "max", "mean", "current")
TRAINING_STATE = "training_state"
RESUMABLE_KEYS = ("meta", "state_dict", "message_hub", "optimizer", TRAINING_STATE)
# Names the checkpoint that was written last, which may lie in another folder (``out_dir``).
POINTER = "last_checkpoint"


def register_safe_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine's own checkpoints hold.

    These are the training log's buffers: mmengine's ``HistoryBuffer`` and numpy's arrays, numbers
    and dtypes. None of them runs code when it is built.
    """
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    safe: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, *dtypes]
    for value in (np.empty(0), np.float64(0)):
        function: Any = value.__reduce__()[0]
        # numpy 1 and 2 write different paths for the same two functions.
        safe += [
            (function, f"{old_or_new}.multiarray.{function.__name__}")
            for old_or_new in ("numpy.core", "numpy._core")
        ]
    torch.serialization.add_safe_globals([*safe, (_get_history_method, "builtins.getattr")])


def _get_history_method(owner: Any, name: str) -> Any:
    """All of ``getattr`` that a log needs: a ``HistoryBuffer`` lists its methods by reference."""
    if owner is not HistoryBuffer or name not in HISTORY_METHODS:
        raise pickle.UnpicklingError(f"refused: getattr of {name!r}")
    return getattr(owner, name)


def resolve_weights(name_or_path: str | Path) -> str:
    """The path of a checkpoint; names of embedded weights ("tiny") become their file's path.

    Raises:
        FileNotFoundError: there is no such file; the message lists the embedded names.
    """
    if str(name_or_path) in EMBEDDED_WEIGHTS:
        path = importlib.resources.files("flmm") / "assets" / EMBEDDED_WEIGHTS[str(name_or_path)]
    else:
        path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: give a .safetensors or .pth file, or one of the "
            f"embedded weights {sorted(EMBEDDED_WEIGHTS)}"
        )
    return str(path)


def load_checkpoint(name_or_path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a checkpoint file as mmengine lays it out, read without running code.

    Its ``state_dict`` has keys without a leading ``module.``.

    Raises:
        FileNotFoundError: see :func:`resolve_weights`.
        ValueError: the file is broken, or holds anything but weights and plain values.
    """
    path = resolve_weights(name_or_path)
    register_safe_globals()
    try:
        if path.endswith(".safetensors"):
            content = load_file(path, device=str(device))
        else:
            content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a broken file
        raise ValueError(f"checkpoint {path} cannot be read: {describe_error(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoint {path} holds a {type(content).__name__}, not weights")
    checkpoint: dict[str, Any] = (
        dict(content) if "state_dict" in content else {"state_dict": content}
    )
    weights = checkpoint["state_dict"]
    if not isinstance(weights, Mapping) or any(not isinstance(key, str) for key in weights):
        raise ValueError(f"checkpoint {path}: its state_dict is no dict of named tensors")
    checkpoint["state_dict"] = {key.removeprefix("module."): weights[key] for key in weights}
    return checkpoint


def load_trainable(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load trainable weights from ``source``: all that ``model.state_dict()`` names, no others.

    Raises:
        ValueError: a key is missing or unexpected, has another shape, whole numbers for floats, or
            values that are not finite; all are named.
    """
    problems = describe_mismatch(model.state_dict(), state_dict)
    if problems:
        raise ValueError(f"{source} does not fit the model:\n" + "\n".join(problems))
    model.load_state_dict(dict(state_dict), strict=False)


def load_weights(model: nn.Module, name_or_path: str | Path) -> None:
    """Load a checkpoint's weights into a model, strictly.

    Raises:
        FileNotFoundError, ValueError: see :func:`load_checkpoint` and :func:`load_trainable`.
    """
    checkpoint = load_checkpoint(name_or_path)
    load_trainable(model, checkpoint["state_dict"], f"checkpoint {resolve_weights(name_or_path)}")


def save_trainable(model: nn.Module, path: str | Path) -> None:
    """Write the weights of ``model.state_dict()``, as safetensors or ``.pth`` by the suffix."""
    weights = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    if Path(path).suffix == ".safetensors":
        replace_file(path, save(weights))
    else:
        write_checkpoint(path, {"state_dict": weights})


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write what ``torch.save`` makes of a content, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_file(path, buffer.getbuffer())


def describe_error(error: BaseException) -> str:
    """The first line of an error that says anything, else its kind."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def find_latest_checkpoint(work_dir: str | Path, warn: Callable[[str], object]) -> Path | None:
    """The checkpoint that was written last, among those that a training can go on from.

    ``best_*.pth`` hold weights alone and are not looked at. Where the folder has none, the one that
    its pointer names is looked at.

    Args:
        warn: told, for each file that is passed over, its name and the reason.
    """
    folder, pointer = Path(work_dir), Path(work_dir) / POINTER
    found = _find_in(folder, warn)
    if found is None and pointer.is_file():
        elsewhere = Path(pointer.read_text().strip()).parent
        found = None if elsewhere == folder.absolute() else _find_in(elsewhere, warn)
    return found


def _find_in(folder: Path, warn: Callable[[str], object]) -> Path | None:
    written: dict[Path, int] = {}
    for path in sorted(folder.glob("*.pth")):
        if not path.name.startswith("best_"):
            with _passing_over(path, warn):
                written[path] = read_training_state(path)["saved_at"]
    for path in sorted(written, key=written.__getitem__, reverse=True):
        with _passing_over(path, warn):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # compares every byte with its checksums
            if damaged is None:
                return path
            warn(f"checkpoint {path} is passed over: it is damaged (checksum of {damaged})")
    return None


@contextlib.contextmanager
def _passing_over(path: Path, warn: Callable[[str], object]) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        warn(f"checkpoint {path} is passed over: {error}")


def read_training_state(path: str | Path) -> dict[str, Any]:
    """A checkpoint's training state and ``config_text``; its tensors are not read.

    Raises:
        ValueError: the file is broken, or no training can go on from it.
    """
    register_safe_globals()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"it is cut off or damaged ({describe_error(error)})") from error
    content = content if isinstance(content, dict) else {}
    missing = [key for key in RESUMABLE_KEYS if key not in content]
    if missing:
        raise ValueError(f"no training can go on from it: it lacks {', '.join(missing)}")
    text = content.get("meta", {}).get("cfg", "")
    return {**content[TRAINING_STATE], "config_text": text}
