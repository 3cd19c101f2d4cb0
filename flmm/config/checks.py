"""Misspelt settings: refused, with the nearest name that is known.

docs/training.md and decision 0011 have the rule: a dict with ``type`` takes what its class takes; a
new key of another dict, and a new variable of a file, are refused where they look like a name that
is known; an override must reach something that is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from flmm.config.signatures import Signature, find_signature

# What flmm reads of a config's top level, beside mmengine's runner.
FLMM_KEYS = {
    *("compile_mask_head", "data_root", "eval_datasets", "eval_png_datasets", "feature_cache"),
    *("reader", "selectors", "visual_cot", "weights"),
}
# What mmengine's runner reads of its config, beside its constructor's arguments.
RUNNER_KEYS = {
    *("activation_checkpointing", "compile", "custom_imports", "efficient_conv_bn_eval", "env_cfg"),
    *("find_unused_parameters", "model_wrapper_cfg", "runner_type", "sync_bn", "vis_backends"),
}
# What builders take out of a dict before its class sees the rest.
_BUILDER_KEYS = {
    *("_delete_", "_scope_", "by_epoch", "constructor", "convert_to_iter_based"),
    *("paramwise_cfg", "priority", "type"),
}
_LOADER_KEYS = {"num_batch_per_epoch", "collate_fn", "sampler", "batch_sampler", "dataset"}
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# Dicts without a type whose keys are known: place -> names.
_KNOWN_PLACES = {
    "default_hooks": {
        *("timer", "logger", "param_scheduler", "checkpoint", "sampler_seed", "runtime_info")
    },
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "optim_wrapper.clip_grad": {"max_norm", "norm_type", "error_if_nonfinite", "foreach", "type"},
    "optim_wrapper.paramwise_cfg": {"custom_keys", "norm_decay_mult", "bias_decay_mult"},
    "randomness": {"seed", "diff_rank_seed", "deterministic"},
}
# Types of dicts that may leave theirs out.
_DEFAULT_TYPES = {"optim_wrapper": "OptimWrapper", "log_processor": "LogProcessor"}
# Docstrings, comments, and strings that fill in no variable.
_NO_CODE = re.compile(r"(\"{3}|'{3})[\s\S]*?\1|#.*|(?<![fF])([\"'])(?!\{\{)[^\"'\n]*\2")
CLOSE = 0.8  # of difflib: one wrong, missing or swapped letter in a name of five
_FAR = 0.6  # where the name is wrong for certain
Modules = tuple[str, ...]


def list_top_level_keys() -> set[str]:
    """Every key of a config's top level that somebody reads."""
    runner = find_signature("mmengine.Runner")
    return FLMM_KEYS | RUNNER_KEYS | (runner.names if runner is not None else set())


def check_config(config: Config) -> None:
    """Refuse (ValueError) a config with a setting that nobody reads, or a value of a wrong kind."""
    known, modules = list_top_level_keys(), _list_custom_modules(config)
    for name in config:
        if name in known:
            _check_node(config[name], name, modules)
            continue
        near = find_nearest(name, known)
        if near and not is_read(name, config.text) and _is_alike(config[name], near):
            raise ValueError(
                f"{config.filename}: nobody reads {name!r}: did you mean {near!r}? (a variable "
                "of your own may be called anything that the file reads somewhere)"
            )


def check_overrides(config: Config, options: Mapping[str, Any]) -> None:
    """Refuse (ValueError) overrides that change nothing, before they are merged."""
    known, modules = list_top_level_keys(), _list_custom_modules(config)
    for key, value in options.items():
        first, *rest = str(key).split(".")
        if first not in known and first not in config:
            near = find_nearest(first, known, _FAR)
            advice = (
                f"did you mean {near!r}?" if near else "a key of your own belongs into the config"
            )
            raise ValueError(f"unknown setting {key!r}, which nothing reads: {advice}")
        if first not in known and is_read(first, config.text):
            raise ValueError(
                f"{first!r} is a variable of {config.filename}, which was read before {key!r} "
                "could override it: override what is made of it"
            )
        _check_path(config.get(first), first, rest, value, modules)


def _check_path(node: Any, place: str, rest: Sequence[str], value: Any, modules: Modules) -> None:
    """Follow a dotted key into the config as far as it goes."""
    for name in rest:
        if isinstance(node, (list, tuple)):
            node = node[int(name)] if name.isdigit() and int(name) < len(node) else None
        elif isinstance(node, dict):
            if name not in node and _find_signature(node, place, modules) is None:
                near = find_nearest(name, {*node} | _KNOWN_PLACES.get(place, set()))
                if near not in (None, name):
                    raise ValueError(f"unknown setting '{place}.{name}': did you mean {near!r}?")
            node = node.get(name)
        else:
            return
        place = f"{place}.{name}"
    if isinstance(node, dict) and "type" in node and not isinstance(value, (dict, type(None))):
        raise ValueError(
            f"{place}={value!r} would replace all settings of {node['type']}: name one of them "
            f"({place}.NAME=VALUE), or give None"
        )


def _check_node(node: Any, place: str, modules: Modules) -> None:
    if isinstance(node, (list, tuple)):
        for number, item in enumerate(node):
            _check_node(item, f"{place}.{number}", modules)
    if not isinstance(node, dict):
        return
    signature = _find_signature(node, place, modules)
    for name, value in node.items():
        if signature is not None:
            _check_setting(signature, node, place, name)
        _check_node(value, f"{place}.{name}", modules)


def _check_setting(signature: Signature, node: dict, place: str, name: str) -> None:
    """One key of a dict and its value, against what the dict's class takes."""
    if name not in signature.names | _BUILDER_KEYS:
        near = find_nearest(name, signature.names, CLOSE if signature.is_open else _FAR)
        if near or not signature.is_open:
            of = f" of {node['type']}" if "type" in node else ""
            known = f"known are {', '.join(sorted(signature.names))}"
            advice = f"did you mean {near!r}?" if near else known
            raise ValueError(f"unknown setting '{place}.{name}'{of}: {advice}")
        return
    kinds, value = signature.kinds.get(name), node[name]
    if kinds is None or not isinstance(value, (bool, int, float, str, list, tuple, dict)):
        return
    if not (bool in kinds if isinstance(value, bool) else isinstance(value, kinds)):
        wanted = sorted({kind.__name__ for kind in kinds})
        raise ValueError(
            f"{place}.{name} is {value!r}, a {type(value).__name__}: give "
            + " or ".join("None" if kind == "NoneType" else kind for kind in wanted)
        )


def _find_signature(node: dict, place: str, modules: Modules) -> Signature | None:
    kind = node.get("type", _DEFAULT_TYPES.get(place))
    if place in _LOADERS:
        loader = find_signature("torch.DataLoader")
        return None if loader is None else Signature(loader.names | _LOADER_KEYS, loader.kinds)
    if place == "train_cfg" and kind is None:
        kind = "EpochBasedTrainLoop" if node.get("by_epoch") else "IterBasedTrainLoop"
    return find_signature(kind, modules) if isinstance(kind, str) else None


def _list_custom_modules(config: Config) -> Modules:
    imports = (config.get("custom_imports") or {}).get("imports", [])
    return (imports,) if isinstance(imports, str) else tuple(imports)


def find_nearest(name: str, known: Iterable[str], cutoff: float = CLOSE) -> str | None:
    """The known name that ``name`` is a misspelling of."""
    near = difflib.get_close_matches(name, sorted(known), 1, cutoff)
    if cutoff >= CLOSE:  # a name within a longer one is no misspelling of it
        near = [item for item in near if abs(len(item) - len(name)) <= 2]
    return near[0] if near else None


def is_read(name: str, text: str) -> bool:
    """Whether a config's code has the name anywhere but where a value is given to it."""
    code = _NO_CODE.sub("", text)
    return re.search(rf"(?<!\w){re.escape(name)}\b(?!\s*=(?!=))", code) is not None


def _is_alike(value: Any, key: str) -> bool:
    """Whether a value is of the kind that a key of the top level holds; ``weight = 0.5`` is not."""
    kinds: tuple[type, ...] = (dict, list, tuple)
    if key in ("weights", "reader", "data_root", "work_dir", "load_from"):
        kinds = (str,)
    elif key in ("resume", "compile_mask_head", "find_unused_parameters"):
        return isinstance(value, (bool, dict))
    return value is None or isinstance(value, kinds)
