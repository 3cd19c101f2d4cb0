"""Share a trained head: from a training's checkpoint to a folder for from_pretrained and the hub.

python tools/export.py CONFIG CHECKPOINT FOLDER [--results EVAL.json ...] [--repo-id owner/name]
"""

import argparse

from flmm.command_line import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of the training")
    parser.add_argument("checkpoint", help="its checkpoint, or its work folder (the best is taken)")
    parser.add_argument("folder", help="for model.safetensors, config.json and README.md")
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        help="JSON reports of tools/eval_refcoco.py and tools/eval_png.py on this checkpoint; "
        "without them the model card says that nothing was measured",
    )
    parser.add_argument("--repo-id", help="on the hub, owner/name, for the model card")
    parser.add_argument(
        "--license", default="apache-2.0", help="of the trained weights (default: apache-2.0)"
    )
    parser.add_argument("--base-model", help="hub id of a reader that is a local folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a head that lies there")
    add_common_arguments(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Load the config and export."""
    from flmm.config import load_config

    config = load_config(args.config, args.cfg_options, args.work_dir)

    from flmm.sharing.exporting import export_checkpoint  # after the check: this loads torch
    from flmm.sharing.model_card import CardOptions

    card = CardOptions(args.results, args.repo_id, args.license, args.base_model)
    folder = export_checkpoint(config, args.checkpoint, args.folder, card, args.overwrite)
    print(f"written: {folder}; use it with GroundingInferencer.from_pretrained({str(folder)!r})")


if __name__ == "__main__":
    run_tool(main, parse_args())
