"""Which trained weights are measured or used: one order for every tool, said in one line.

Training has its own start (``--load-from``) and never asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from torch import nn

from flmm.checkpoints.checkpoint import EMBEDDED_WEIGHTS, load_weights, resolve_weights
from flmm.fingerprints import hash_file

SHOWN_DIGITS = 12
PUBLISHED = "published"  # a config's ``weights`` where nothing was trained


@dataclass(frozen=True)
class ChosenWeights:
    """Trained weights, and why these."""

    # As the user or the config named them: a path, embedded weights ("tiny"), or "published".
    name: str
    path: str | None  # None: nothing was trained
    sha256: str | None  # of the file, hexadecimal
    chosen_by: str  # "the user", or the key of the config
    remarks: tuple[str, ...] = ()  # sentences about other weights that are not taken

    def describe(self) -> str:
        """One line: what the weights are."""
        if self.path is None:
            return "weights: reader and refiner as published, nothing was trained"
        is_embedded = self.name in EMBEDDED_WEIGHTS
        kind = f"the embedded toy head {self.name!r}" if is_embedded else self.path
        line = f"weights: {kind} (sha256 {str(self.sha256)[:SHOWN_DIGITS]}"
        return line + (")" if self.chosen_by == "the user" else f", the config's {self.chosen_by})")

    def to_json(self) -> dict[str, Any]:
        """For reports: name, hash and the line."""
        return {"checkpoint": self.name, "sha256": self.sha256, "weights": self.describe()}

    def load(self, model: nn.Module) -> None:
        """Load them into a model, strictly.

        Raises:
            ValueError: they do not fit; or nothing was trained, and the model has what must be.
        """
        if self.path is not None:
            load_weights(model, self.name)
            return
        untrained = sorted({key.partition(".")[0] for key in model.state_dict()} - {"sam"})
        if untrained:
            raise ValueError(
                f"weights are {PUBLISHED!r}, nothing was trained, but the model's "
                f"{', '.join(untrained)} must be: give CHECKPOINT (in Python: checkpoint=)"
            )


def choose_weights(config: Config, checkpoint: str | Path | None = None) -> ChosenWeights:
    """The weights that are named, else the config's ``weights``, else where its training begins.

    ``"published"`` in their place says that nothing was trained.

    Raises:
        ValueError: nobody names any.
        FileNotFoundError: the file does not exist.
    """
    given = {"the user": checkpoint}
    given |= {key: config.get(key) for key in ("weights", "load_from")}
    for by, name in given.items():
        if name == PUBLISHED:
            return ChosenWeights(PUBLISHED, None, None, by)
        if name is not None:
            path = resolve_weights(name)
            remarks = [] if by == "the user" else _list_remarks(config, str(name))
            return ChosenWeights(str(name), path, hash_file(path), by, tuple(remarks))
    raise ValueError(
        f"{config.filename} names no weights of its own: give CHECKPOINT (in Python: "
        "checkpoint=), the file that tools/train.py wrote for this config"
    )


def tell_weights(weights: ChosenWeights | None) -> None:
    """Print what the weights are, and what they are not; the main process alone."""
    if weights is not None and is_main_process():
        print(weights.describe(), *weights.remarks, sep="\n", flush=True)


def _list_remarks(config: Config, name: str) -> list[str]:
    start, trained = config.get("load_from"), _find_trained(config.get("work_dir"))
    remarks = []
    if start is not None and str(start) != name:
        remarks.append(
            f"load_from={start} is where a training begins: give it as CHECKPOINT to take it"
        )
    if trained is not None and str(trained) != name:
        remarks.append(f"a training has left {trained}: give it as CHECKPOINT to take it")
    return remarks


def _find_trained(work_dir: str | None) -> Path | None:
    for pattern in ("best_*.pth", "*.pth") if work_dir else ():
        found = sorted(Path(str(work_dir)).glob(pattern), key=lambda path: path.stat().st_mtime)
        if found:
            return found[-1]
    return None
