"""From a tool's command line to its model."""

from __future__ import annotations

import argparse

from flmm.inferencer import GroundingInferencer

_WITH_READER = ("refiner", "heads", "way", "choose_from")


def open_inferencer(args: argparse.Namespace) -> GroundingInferencer:
    """The model that the arguments of ``flmm.command_line.add_model_arguments`` name.

    Raises:
        ValueError: they name two, or none.
        OSError: weights are not there.
    """
    given = {name: getattr(args, name) for name in _WITH_READER if getattr(args, name) is not None}
    if args.reader is None:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise ValueError(f"--{option} goes with --reader READER, and not with a config")
        config = args.config or "tiny"
        return GroundingInferencer(config, args.checkpoint, args.device, args.cfg_options)
    if args.config or args.checkpoint:
        raise ValueError("--reader stands in place of --config and --checkpoint: leave these out")
    if given.get("refiner") == "none":
        given["refiner"] = None
    given["pictures"] = given.pop("choose_from", ())
    return GroundingInferencer.from_reader(
        args.reader, device=args.device, cfg_options=args.cfg_options, **given
    )
