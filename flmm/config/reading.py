"""What a name means (a config, a shared head, the embedded toy), and reading a config.

Configs are found by path or bare name from any working directory; a wheel carries them. Nothing
heavier than mmengine's own reader is imported before a config is checked; its ``custom_imports``
come after.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

import flmm
from flmm.config.checks import check_config, check_overrides
from flmm.config.signatures import find_reader_argument

TINY = "tiny"
TINY_CONFIG = "tiny_unet_sam_shapes"
_PACKAGE = Path(flmm.__file__).resolve().parent
TINY_HEAD = _PACKAGE / "assets" / "tiny_head"
# No YAML: it looks like data, and mmengine's reader of it runs what it names.
_SUFFIXES = (".py", ".json")
# Beside the package in the repository, within it in a wheel.
_CONFIG_ROOTS = (_PACKAGE.parent / "configs", _PACKAGE / "configs")


def resolve_name(name: str | Path) -> Path | str:
    """A config's file or a head's folder as a path, or a hub id as a text.

    Args:
        name: ``"tiny"`` (the embedded head, always; a folder of that name is ``./tiny``), a
            config's path or bare name, a head's folder, or a hub id ``owner/name``.

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
    """The file of a whole config, for training and evaluation; of ``"tiny"`` the toy's."""
    found = resolve_name(TINY_CONFIG if str(name) == TINY else name)
    if isinstance(found, Path) and found.is_file():
        return found
    where = "no such folder or config is here" if isinstance(found, str) else "a folder"
    raise (FileNotFoundError if isinstance(found, str) else ValueError)(
        f"{name} is no config ({where}){suggest(name)}: training and evaluation take a config; of "
        "a shared head, give the config of its training and its model.safetensors as the checkpoint"
    )


def find_recipe(name: str) -> Path:
    """The file of one of flmm's own recipes, which others are made of: they need more settings."""
    places = [root / "_base_" / "recipes" / f"{name}.py" for root in _CONFIG_ROOTS]
    return next(path for path in places if path.is_file())


def is_hub_id(text: Any) -> bool:
    """Whether a text can only be a hub id ``owner/name``, and no path."""
    return isinstance(text, str) and text.count("/") == 1 and is_repository(text)


def is_repository(name: str) -> bool:
    """Whether a text can be a hub id, also one of the first, which have no owner."""
    from huggingface_hub.errors import HFValidationError  # late: slow to import
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
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


def load_config(
    path: str | Path,
    cfg_options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
    launcher: str = "none",
) -> Config:
    """Read a config and apply what the command line says.

    Args:
        path: or bare name, see :func:`find_config`.
        cfg_options: dotted keys and values that are merged into the config; ``data_root`` also
            replaces the config's data root wherever a data set has it, ``reader`` the reader in
            every model and image processor that names none, or the config's own.
        work_dir: for logs and checkpoints; None: the config's own, else ``./work_dirs/<name>``.
        launcher: "none", "pytorch", "slurm" or "mpi".

    Raises:
        FileNotFoundError, ValueError: there is no such config, or a setting is not known.
    """
    path = find_config(path)
    config = Config.fromfile(path, import_custom_modules=False)
    configured_root, configured_reader = config.get("data_root"), config.get("reader")
    override(config, cfg_options)
    if config.get("custom_imports"):
        import_modules_from_strings(**config.custom_imports)
    for node in _walk(list(config.values())):
        kind = node.get("type")
        argument = find_reader_argument(kind) if isinstance(kind, str) else None
        if config.get("reader") and argument and node.get(argument) in (None, configured_reader):
            node[argument] = config.reader
        if "data_root" in node and node["data_root"] == configured_root:
            node["data_root"] = config.get("data_root")
    config.launcher = launcher
    config.work_dir = work_dir or config.get("work_dir") or f"./work_dirs/{Path(path).stem}"
    return config


def override(config: Config, cfg_options: Mapping[str, Any] | None) -> None:
    """Merge dotted keys into a config, and check the whole."""
    check_overrides(config, cfg_options or {})
    config.merge_from_dict(dict(cfg_options or {}))
    check_config(config)


def _walk(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _walk(item)
