"""A stand-in for mmcv's compiled operators, and the door to mmdet's losses.

mmdet imports ``mmcv._ext`` (compiled CUDA and C++ operators) although the parts flmm uses never
call it, and ``mmcv-lite`` ships without it. Rooms that need mmdet call :func:`install` first;
importing this module costs nothing and imports neither mmcv nor mmdet.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

OPS_MODULE = "mmcv._ext"


class MissingOps(ModuleType):
    """A module in which every operator can be looked up, and none can be called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(f"module {OPS_MODULE!r} has no attribute {name!r}")

        def missing_op(*_args: Any, **_kwargs: Any) -> Any:
            raise ImportError(
                f"the compiled mmcv operator {name!r} was called, but mmcv-lite is installed: "
                "flmm needs no such operator; for models that do, install a full build of mmcv "
                "(pip uninstall mmcv-lite; mim install 'mmcv>=2.1,<2.2')"
            )

        return missing_op


def install() -> None:
    """Make ``import mmdet`` possible; does nothing where mmcv's operators are compiled in."""
    if OPS_MODULE in sys.modules:
        return
    if importlib.util.find_spec("mmcv") is None:
        raise ImportError("mmdet needs mmcv: pip install 'mmcv-lite>=2.1,<2.2'")
    if importlib.util.find_spec(OPS_MODULE) is not None:
        return
    module = MissingOps(OPS_MODULE, "Stand-in made by flmm.mmcv_ops: no compiled operators here.")
    module.__spec__ = ModuleSpec(OPS_MODULE, loader=None)
    sys.modules[OPS_MODULE] = module


def build_loss(cfg: dict[str, Any] | nn.Module) -> nn.Module:
    """Build a loss from its config; mmdet is imported here, and only here.

    Args:
        cfg: a config dict whose ``type`` is the name of one of mmdet's losses, with or without
            its scope (``"mmdet.DiceLoss"``, ``"DiceLoss"``), or a class; or a ready module.
    """
    if isinstance(cfg, nn.Module):
        return cfg
    if not isinstance(cfg, dict) or "type" not in cfg:
        raise TypeError(
            f"a loss is built from a dict with the key 'type', for example "
            f"dict(type='mmdet.DiceLoss', naive_dice=True); got {cfg!r}"
        )
    arguments = dict(cfg)
    kind = arguments.pop("type")
    if isinstance(kind, str):
        install()
        losses = importlib.import_module("mmdet.models.losses")
        found = getattr(losses, kind.removeprefix("mmdet."), None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise ValueError(
                f"mmdet has no loss {kind!r}: the config names it under 'type', for example "
                "'mmdet.DiceLoss' or 'mmdet.CrossEntropyLoss'"
            )
        kind = found
    return kind(**arguments)
