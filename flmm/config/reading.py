"""Reading a config, with what the command line says about it.

In: the path of a config and overrides. Out: the config, checked. Nothing heavier than mmengine's
own reader is imported before the check; a config's ``custom_imports`` come after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from flmm.config.checks import check_config, check_overrides
from flmm.config.names import find_config
from flmm.config.signatures import find_reader_argument


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
            replaces the config's data root wherever a data set has it, ``reader`` the reader in
            every model and image processor that names none, or the config's own.
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
    """Merge dotted keys into a config, and check the whole.

    Raises:
        ValueError: see :func:`load_config`.
    """
    check_overrides(config, cfg_options or {})
    config.merge_from_dict(dict(cfg_options or {}))
    check_config(config)


def _walk(node: Any) -> Iterator[Any]:
    """Every dict in a config, however deep it lies."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _walk(item)
