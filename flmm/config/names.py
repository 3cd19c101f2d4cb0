"""What a name means, wherever one is asked for: a config, a shared head, or the embedded toy.

In: what a person wrote. Out: a config's file, a head's folder, or a hub id. Configs are found by
path or bare name from any working directory, also where flmm was installed without its repository
(the wheel carries them).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import flmm

TINY = "tiny"
TINY_CONFIG = "tiny_unet_sam_shapes"
_PACKAGE = Path(flmm.__file__).resolve().parent
TINY_HEAD = _PACKAGE / "assets" / "tiny_head"
# No YAML: it looks like data, and mmengine's reader of it runs what it names.
_SUFFIXES = (".py", ".json")
# Beside the package in the repository, within it in a wheel.
_CONFIG_ROOTS = (_PACKAGE.parent / "configs", _PACKAGE / "configs")


def resolve_name(name: str | Path) -> Path | str:
    """What a name means.

    Args:
        name: ``"tiny"`` (the embedded head, always; a folder of that name is ``./tiny``), a
            config's path or bare name, a head's folder, or a hub id ``owner/name``.

    Returns:
        a config's file or a head's folder as a path, a hub id as a text.

    Raises:
        FileNotFoundError: it is none of them; the message has the nearest names.
        ValueError: it is a file, and no config.
    """
    if str(name) == TINY:
        return TINY_HEAD
    path = Path(name).expanduser()
    if path.is_file() and path.suffix not in _SUFFIXES:
        raise ValueError(
            f"{name} is no config (these are Python files): trained weights are given as the "
            "checkpoint of a config"
        )
    if path.exists():
        return path
    wanted = path.with_name(path.name.removesuffix(".py")).parts if path.name else ()
    for config in list_configs() if wanted and not path.is_absolute() else []:
        if ("configs", config.parent.name, config.stem)[-len(wanted) :] == wanted:
            return config
    if is_hub_id(str(name)) and path.suffix not in _SUFFIXES:
        return str(name)
    raise FileNotFoundError(
        f"there is no config and no head {name}{suggest(name)}; a config is named by its path or "
        "bare name, a shared head by its folder or hub id (owner/name), the embedded toy is 'tiny'"
    )


def find_config(name: str | Path) -> Path:
    """The file of a whole config, for training and evaluation; of ``"tiny"`` the toy's.

    Raises:
        FileNotFoundError, ValueError: see :func:`resolve_name`; or it is a shared head.
    """
    found = resolve_name(TINY_CONFIG if str(name) == TINY else name)
    if isinstance(found, Path) and found.is_file():
        return found
    where = "no such folder or config is here" if isinstance(found, str) else "a folder"
    raise (FileNotFoundError if isinstance(found, str) else ValueError)(
        f"{name} is no config ({where}){suggest(name)}: training and evaluation take a config; of "
        "a shared head, give the config of its training and its model.safetensors as the checkpoint"
    )


def is_hub_id(text: Any) -> bool:
    """Whether a text can only be a hub id ``owner/name``, and no path."""
    if not isinstance(text, str) or text.count("/") != 1:
        return False
    from huggingface_hub.errors import HFValidationError  # late: slow to import
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def suggest(name: str | Path) -> str:
    """The nearest names of configs, as a part of a sentence; empty where none is near."""
    stem = Path(name).name.removesuffix(".py")
    names = [TINY, *sorted(path.stem for path in list_configs())]
    near = difflib.get_close_matches(stem, names, n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else ""


def list_configs() -> list[Path]:
    """flmm's own configs, without the parts that others are made of."""
    for root in _CONFIG_ROOTS:
        if (root / "_base_").is_dir():
            paths = sorted(root.rglob("*.py"))
            return [path for path in paths if "_base_" not in path.relative_to(root).parts]
    return []
