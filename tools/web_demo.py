"""A page to try a model on: choose or upload a picture, ask, and see where the words point.

python tools/web_demo.py                                     # the embedded toy model
python tools/web_demo.py --config CONFIG --checkpoint TRAINED_HEAD
python tools/web_demo.py --reader READER --refiner vit_b     # no training
python tools/web_demo.py --host 0.0.0.0 --port 8080          # for others on the network, too

Needs the extra "web": pip install -e ".[web]". Nothing is loaded from another host.
"""

import argparse
import os

from flmm.command_line import add_model_arguments, run_tool

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

QUESTION = "Please give me a description of the image."


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    from flmm.apps.web.visitors import Limits

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name that the page is reached by, as behind a proxy; repeatable",
    )
    parser.add_argument("--port", type=int, default=7860, help="default 7860; 0: any free one")
    parser.add_argument("--question", default=QUESTION, help="that stands in the field at first")
    parser.add_argument("--begin", help="first words of every answer (toy model: a)")
    parser.add_argument(
        "--select",
        default="config",
        help="which words point at first: config, list, noun_chunks, reader or brackets "
        "(default: config, those of the config)",
    )
    bounds = Limits()
    upload_mib = bounds.max_upload_bytes / 2**20
    for name, kind, default, text in [
        ("--max-upload-mib", float, upload_mib, "greatest file that may be uploaded"),
        ("--max-pixels", int, bounds.max_pixels, "greatest width times height of a picture"),
        ("--max-side", int, bounds.max_side_px, "pictures with a longer side are shrunk to it"),
        ("--max-new-tokens", int, bounds.max_new_tokens, "longest answer"),
        ("--time-limit", float, bounds.time_limit_s, "seconds that an answer may take"),
        ("--queue-size", int, bounds.queue_size, "requests that wait at once"),
        ("--max-visitors", int, bounds.max_visitors, "conversations that are held at once"),
        ("--idle-minutes", float, bounds.idle_s / 60, "a conversation is dropped after them"),
    ]:
        parser.add_argument(
            name, type=kind, default=default, help=f"{text} (default {default:,.0f})"
        )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the model, show the page."""
    from flmm.apps.opening import open_inferencer
    from flmm.apps.web.service import PageService
    from flmm.apps.web.visitors import Limits

    try:
        from flmm.apps.web.server import build_app, build_start, serve
    except ImportError as error:
        raise ImportError(
            f"the page needs Starlette and uvicorn ({error}): pip install -e '.[web]', or talk in "
            "the terminal with tools/chat.py"
        ) from error
    limits = Limits(
        max_upload_bytes=int(args.max_upload_mib * 2**20),
        max_pixels=args.max_pixels,
        max_side_px=args.max_side,
        max_new_tokens=args.max_new_tokens,
        time_limit_s=args.time_limit,
        queue_size=args.queue_size,
        max_visitors=args.max_visitors,
        idle_s=args.idle_minutes * 60,
    )
    inferencer = open_inferencer(args)
    # The toy writes captions that begin so, and nothing else (see docs/tiny_model.md).
    begin = ("a" if inferencer.model.vlm.notice else "") if args.begin is None else args.begin
    service = PageService(inferencer, limits)
    start = build_start(service, question=args.question, begin=begin, select=args.select)
    serve(build_app(service, start, args.host, args.allow_host), args.host, args.port)


if __name__ == "__main__":
    run_tool(main, parse_args())
