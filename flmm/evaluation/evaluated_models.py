"""What an evaluation measures: a config's model and what points without training, from one reader.

The models share reader and image encoder, so that a picture is read and encoded once for all.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from flmm.checkpoints.chosen_weights import ChosenWeights, choose_weights, tell_weights
from flmm.evaluation.evaluation_options import EvaluationOptions
from flmm.fingerprints import sample_weights_hash
from flmm.masks import Refiner
from flmm.provenance import describe_device, describe_model, list_versions
from flmm.registry import MODELS
from flmm.ways import TRAINED, configure_way, name_way, take_as_published

# Of readers that point by attention without training: docs/without_training.md has the figures.
TOKEN_MERGE = "last"


def build_models(
    config: Config, options: EvaluationOptions
) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """The models by the way they point, the trained one first, and where their figures come from.

    Raises:
        ValueError: no weights are named and no baseline, options contradict each other, or a
            baseline lacks what it needs.
    """
    weights = _choose_weights(config, options)
    tell_weights(weights)
    run: dict[str, Any] = {"config": str(config.filename)}
    models = _build(config, options, weights)
    device = torch.device(options.device or "cpu")
    if options.device is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())  # this process's
    for model in models.values():
        model.to(device).eval()
    first = next(iter(models.values()))
    run |= {"ways": list(models)} | ({} if weights is None else weights.to_json())
    if options.baseline:
        hashes = {way: sample_weights_hash(model) for way, model in models.items()}
        run |= {"ways_hash": hashes, "heads": options.heads}
    run |= describe_model(first)
    run |= {"device": describe_device(device), "seed": config.get("randomness", {}).get("seed")}
    return models, run | {"versions": list_versions()}


def _choose_weights(config: Config, options: EvaluationOptions) -> ChosenWeights | None:
    """Those of the config's model; ``None``: it is not measured."""
    if options.baseline_only and not options.baseline:
        raise ValueError("--baseline-only leaves nothing to measure: name ways with --baseline")
    if options.baseline_only and options.checkpoint is not None:
        raise ValueError("--baseline-only measures no trained head: leave CHECKPOINT out")
    named = options.checkpoint or config.get("weights") or config.get("load_from")
    if options.baseline_only or (options.baseline and named is None):
        return None
    return choose_weights(config, options.checkpoint)


def _build(
    config: Config, options: EvaluationOptions, weights: ChosenWeights | None
) -> dict[str, nn.Module]:
    if weights is not None and not options.baseline:
        model = MODELS.build(config.model)
        weights.load(model)
        return {_name_row(model, weights): model}
    reader, sam = MODELS.build(config.model.model), config.model.get("sam")
    refiner = None if sam is None else MODELS.build(sam)
    published = None if refiner is None else take_as_published(_copy_unfrozen(refiner))
    models: dict[str, nn.Module] = {}
    if weights is not None:
        model = MODELS.build({**config.model, "model": reader, "sam": refiner})
        weights.load(model)
        models[_name_row(model, weights)] = model
    looking = copy.copy(reader)
    looking.token_merge = TOKEN_MERGE
    for way in options.baseline:
        if way not in models:
            models[way] = MODELS.build(configure_way(way, looking, published, options.heads))
    return models


def _name_row(model: Any, weights: ChosenWeights) -> str:
    return TRAINED if weights.path is not None else name_way(model)


def _copy_unfrozen(refiner: Refiner) -> Refiner:
    """A refiner with the same frozen part, whose other weights a training has not touched."""
    return copy.deepcopy(refiner, {id(value): value for _, value in refiner.list_frozen()})
