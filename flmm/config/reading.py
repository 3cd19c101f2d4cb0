"""Reading a config, with what the command line says about it.

Data in: the path of a config and overrides. Data out: the config, checked. Nothing heavier than
mmengine's own reader is imported before the check; a config's ``custom_imports`` come after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from flmm.config.checks import check_config, check_overrides
from flmm.config.names import find_config

# Types of configs that name the frozen reader, and the argument that does.
_READER_ARGUMENTS = {"FrozenQwen": "name_or_path", "QwenImageProcessorWrapper": "processor"}


def load_config(
    path: str | Path,
    cfg_options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
    launcher: str = "none",
) -> Config:
    """Read a config and apply what the command line says.

    Args:
        path: of the config, or its bare name; see :func:`flmm.config.names.find_config`.
        cfg_options: dotted keys and values that are merged into the config; ``data_root`` also
            replaces the config's data root wherever a data set has it.
        work_dir: for logs and checkpoints; None: the config's own, else ``./work_dirs/<name>``.
        launcher: "none", "pytorch", "slurm" or "mpi".

    Raises:
        FileNotFoundError: there is no such config; the message has the nearest names.
        ValueError: a setting in the file or in ``cfg_options`` is not known; see
            :mod:`flmm.config.checks`.
    """
    path = find_config(path)
    config = Config.fromfile(path, import_custom_modules=False)
    configured_root, configured_reader = config.get("data_root"), config.get("reader")
    override(config, cfg_options)
    if config.get("custom_imports"):
        import_modules_from_strings(**config.custom_imports)
    if config.get("reader") is not None:
        _set_reader(config._cfg_dict, configured_reader, config.reader)
    if config.get("data_root") != configured_root:
        _replace_data_root(config._cfg_dict, configured_root, config.data_root)
    config.launcher = launcher
    config.work_dir = work_dir or config.get("work_dir") or f"./work_dirs/{Path(path).stem}"
    return config


def override(config: Config, cfg_options: Mapping[str, Any] | None) -> None:
    """Merge dotted keys into a config, and check the whole.

    Raises:
        ValueError: see :func:`load_config`.
    """
    check_overrides(config, cfg_options or {})
    config.merge_from_dict(dict(cfg_options or {}))
    check_config(config)


def _set_reader(node: Any, old: str | None, new: str) -> None:
    """Hand the reader to every model and image processor that names none, or the old one."""
    if isinstance(node, dict):
        for kind, argument in _READER_ARGUMENTS.items():
            if node.get("type") == kind and node.get(argument) in (None, old):
                node[argument] = new
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            _set_reader(item, old, new)


def _replace_data_root(node: Any, old: str | None, new: str) -> None:
    """Set every ``data_root`` that is ``old`` to ``new``, however deep it lies."""
    if isinstance(node, dict):
        if node.get("data_root") == old and "data_root" in node:
            node["data_root"] = new
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            _replace_data_root(item, old, new)


__all__ = ["load_config", "override"]
