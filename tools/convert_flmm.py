"""Turn a checkpoint of F-LMM's own code into one of a config's.

python tools/convert_flmm.py F_LMM.pth head.safetensors --config CONFIG
"""

import argparse

from flmm.command_line import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="F-LMM's file; nothing that is pickled in it is run")
    parser.add_argument("out", help="file to write, .safetensors or .pth")
    parser.add_argument("--config", required=True, help="whose reader, head and SAM it serves")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and convert."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir)

    from flmm.sharing.exporting import convert_head  # after the check: this loads torch

    head = convert_head(config, args.checkpoint, args.out)
    print(
        f"written: {args.out}, {len(head.weights)} trained tensors ({head.left_out} of frozen "
        f"models left out); use it as the CHECKPOINT of {args.config}"
    )


if __name__ == "__main__":
    run_tool(main, parse_args())
