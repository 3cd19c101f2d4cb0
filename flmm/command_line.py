"""What the tools' command lines share, and how the tools end.

A user's mistake is told in one line, everything else with a traceback. Nothing heavy is imported,
so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError)


class _OverrideAction(argparse.Action):
    """mmengine's ``DictAction``, imported when an override is given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        from mmengine.config import DictAction

        for text in values or ():
            if "=" not in text:
                parser.error(f"{option_string} {text}: write KEY=VALUE")
        action = DictAction(self.option_strings, self.dest)
        action(parser, namespace, values, option_string)


def add_override_argument(
    parser: argparse.ArgumentParser,
    name: str = "--cfg-options",
    purpose: str = "override the config",
) -> None:
    """Add ``--cfg-options`` or the like; what it gives is for ``flmm.config.load_config``."""
    parser.add_argument(
        name,
        nargs="+",
        action=_OverrideAction,
        help=f"{purpose}: key=value, nested keys with dots, lists as key=a,b",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names a model; ``flmm.apps.opening.open_inferencer`` builds it."""
    add = parser.add_argument
    add("--config", help="config or shared head (default: the embedded toy model)")
    add("--checkpoint", help="trained head; default: the config's own weights")
    add("--device", help="for example cpu or cuda:0; default: a GPU if there is one")
    add_override_argument(parser)
    add = parser.add_argument_group("in place of a config, without training").add_argument
    add("--reader", help="folder or hub id of a vision-language model")
    add(
        "--refiner",
        help="vit_b (default), vit_l or vit_h with their weights in checkpoints/, a checkpoint of "
        "segment-anything's, folder or hub id of a SAM 2.1 or SAM-HQ, tiny, or none",
    )
    add("--heads", help="JSON of tools/rank_heads.py (default: kept, or chosen without labels)")
    add("--way", choices=["attention", "box", "both"], help="what points (default: attention)")
    add(
        "--choose-from",
        nargs="+",
        metavar="PICTURE",
        help="a handful to choose the heads from (default: the first that are grounded)",
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that OpenMMLab's tools share, and ``--debug``."""
    parser.add_argument("--work-dir", help="folder for logs (default: ./work_dirs/<config name>)")
    add_override_argument(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # torch.distributed.launch passes one of the two spellings, depending on its version.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run_tool(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Call ``main(args)``; errors a user can mend end with one line and exit code 1.

    So does Ctrl-C, with exit code 130. It is heard wherever a terminal is read.

    Threads of torch that wait for each other rest instead of spinning, unless the environment says
    otherwise: beside other work on the same cores spinning costs more than the work itself. Not a
    bit of a result depends on it, as it would on the number of threads.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, in main
    if hasattr(args, "local_rank"):  # only tools that can be launched on several processes
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    _hear_interrupts()
    try:
        main(args)
        torch_dist = sys.modules.get("torch.distributed")
        if torch_dist is not None and torch_dist.is_initialized():
            gc.collect()  # what still talks through the group, such as DDP, goes before it
            torch_dist.destroy_process_group()
    except USER_ERRORS as error:
        if args.debug:
            raise
        sys.exit(f"error: {summarise_error(error)}\n(--debug shows where it happened)")
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _hear_interrupts() -> None:
    """Hear Ctrl-C where a terminal is read, though whoever started this process ignores SIGINT.

    Jobs that a shell runs in the background read no terminal and stay deaf, as it wants them: a
    Ctrl-C that is meant for their neighbour does not end a training.
    """
    is_typed = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    if is_typed and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def summarise_error(error: BaseException) -> str:
    """The message alone, also of an error that a data loader's worker has wrapped."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if message.startswith("Caught ") and "Original Traceback" in message:
        message = message.strip().splitlines()[-1].partition(": ")[2]
    return message or type(error).__name__
