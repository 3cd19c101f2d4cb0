"""What the evaluation tools are told on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass
class EvaluationOptions:
    """What the evaluation tools are told beside the config.

    Attributes:
        checkpoint: trained weights; ``None``: those that the config names.
        baseline: "box": no head, SAM masks of the boxes that the frozen model names.
        datasets, splits: names to keep; ``None``: all.
        protocols: names in ``REFER_PROTOCOLS``.
        limit: only the first so many images of each split.
        save_predictions: write every refined mask as COCO RLE.
        bad_records: "skip" (and count) or "stop".
        restart: forget what an interrupted run had done.
        one_by_one: read the picture anew for every text (to compare, slower).
        batch_size: images that are read together; ``None``: the config's.
        num_workers: of the loaders; ``None``: the config's.
        out: the JSON report, ``.json``; ``None``: in the work folder.
        device: ``None``: a GPU where there is one.
    """

    checkpoint: str | None = None
    baseline: str | None = None
    datasets: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    protocols: Sequence[str] = ("standard",)
    limit: int | None = None
    save_predictions: bool = False
    bad_records: str = "skip"
    restart: bool = False
    one_by_one: bool = False
    batch_size: int | None = None
    num_workers: int | None = None
    out: str | None = None
    device: str | None = None


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all evaluation tools have."""
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "checkpoint", nargs="?", help="trained weights (default: those the config names)"
    )
    parser.add_argument("--datasets", nargs="+", help="data sets to keep (default: all)")
    parser.add_argument("--splits", nargs="+", help="splits to keep (default: all)")
    parser.add_argument("--out", help="JSON report; Markdown is written beside it")
    parser.add_argument(
        "--save-predictions", action="store_true", help="write every refined mask as COCO RLE"
    )
    parser.add_argument("--limit", type=int, help="only the first so many images of each split")
    parser.add_argument(
        "--bad-records",
        choices=["skip", "stop"],
        default="skip",
        help="records that cannot be used: skip and count them (default), or stop",
    )
    parser.add_argument(
        "--restart", action="store_true", help="forget what an interrupted run had done"
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="read the picture anew for every text (slow)"
    )
    parser.add_argument(
        "--batch-size", type=int, help="images that are read together (default: the config's)"
    )
    parser.add_argument("--num-workers", type=int, help="of the loaders (default: the config's)")
    parser.add_argument("--device", help="cpu, cuda:1, ... (default: a GPU where there is one)")


def build_options(args: argparse.Namespace) -> EvaluationOptions:
    """The parsed arguments as options; those that a tool has not are at their default."""
    names = {field.name for field in fields(EvaluationOptions)}
    given = {name: value for name, value in vars(args).items() if name in names}
    if hasattr(args, "protocol"):
        given["protocols"] = ("standard", "flmm") if args.protocol == "both" else (args.protocol,)
    return EvaluationOptions(**given)


__all__ = ["EvaluationOptions", "add_evaluation_arguments", "build_options"]
