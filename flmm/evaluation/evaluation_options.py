"""What the evaluation tools are told on the command line; nothing heavy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class EvaluationOptions:
    """What the evaluation tools are told beside the config; ``--help`` says what each is."""

    checkpoint: str | None = None
    baseline: Sequence[str] = ()
    baseline_only: bool = False
    heads: str | None = None
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

    def fill(self, loader: Mapping[str, Any]) -> EvaluationOptions:
        """The options with the batch size and the workers that a config's loader has."""
        size, workers = self.batch_size, self.num_workers
        return replace(
            self,
            batch_size=loader.get("batch_size") if size is None else size,
            num_workers=loader.get("num_workers") if workers is None else workers,
        )


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all evaluation tools have."""
    add = parser.add_argument
    add("config", help="config file")
    add("checkpoint", nargs="?", help="trained weights (default: those the config names)")
    add("--datasets", nargs="+", help="data sets to keep (default: all but those on request)")
    add("--splits", nargs="+", help="splits to keep (default: all)")
    add("--out", help="JSON report; Markdown is written beside it")
    add("--save-predictions", action="store_true", help="write every refined mask as COCO RLE")
    add("--limit", type=int, help="only the first so many images of each split")
    bad = "records that cannot be used: skip and count them (default), or stop"
    add("--bad-records", choices=["skip", "stop"], default="skip", help=bad)
    add("--restart", action="store_true", help="forget what an interrupted run had done")
    add("--one-by-one", action="store_true", help="read the picture anew for every text (slow)")
    add("--batch-size", type=int, help="images that are read together (default: the config's)")
    add("--num-workers", type=int, help="of the loaders (default: the config's)")
    add("--device", help="cpu, cuda:1, ... (default: a GPU where there is one)")


def build_options(args: argparse.Namespace) -> EvaluationOptions:
    """The parsed arguments as options; those that a tool has not are at their default."""
    names = {field.name for field in fields(EvaluationOptions)}
    given = {key: value for key, value in vars(args).items() if key in names and value is not None}
    if hasattr(args, "protocol"):
        given["protocols"] = ("standard", "flmm") if args.protocol == "both" else (args.protocol,)
    return EvaluationOptions(**given)
