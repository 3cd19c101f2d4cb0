"""The model card of a shared head: what it is, how it is used, what was measured.

A figure stands in it only if a report of the evaluation tools gives it, the report measured these
very weights, and data set, split, protocol and command stand beside it; else the card says "not
measured" and how to measure. The text is that of the template ``model_card.md``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from flmm.evaluation.protocols import PROTOCOLS
from flmm.evaluation.report_tables import NAMES, format_rows, list_figures
from flmm.fingerprints import sample_weights_hash
from flmm.sharing.part_records import DOWNLOADS, format_reader
from flmm.tables import format_markdown
from flmm.ways import TRAINED

TASK = "image-segmentation"
TAGS = ["flmm", "referring-image-segmentation", "visual-grounding"]
# Title of a report -> the tool that writes it.
TOOLS = {
    "Referring segmentation": "tools/eval_refcoco.py",
    "Panoptic narrative grounding": "tools/eval_png.py",
}
_TEMPLATE = Path(__file__).with_name("model_card.md")
_USUAL_FOLDERS = ("configs", "work_dirs", "checkpoints")


@dataclass(frozen=True)
class CardOptions:
    """What a model card says beside a head's settings.

    Attributes:
        results: JSON reports of tools/eval_refcoco.py and tools/eval_png.py on these weights.
        repo_id: of the hub, ``owner/name``; ``None``: the card loads from the folder.
        license: of the trained weights, as the hub abbreviates it.
        base_model: hub id of the reader, where it was loaded from a folder.
    """

    results: Sequence[str | Path] = ()
    repo_id: str | None = None
    license: str = "apache-2.0"
    base_model: str | None = None


@dataclass(frozen=True)
class Results:
    """One report: ``tool`` wrote it, ``rows`` are as in its table, in percent.

    ``run`` says where they come from (config, checkpoint, hashes, device, versions), ``weights`` is
    the file of the head, for the command.
    """

    tool: str
    rows: list[dict[str, Any]]
    run: dict[str, Any]
    weights: str

    @property
    def table(self) -> str:
        """As Markdown; groups of phrases only where the tool's own table shows them."""
        return format_rows(self.rows, format_markdown, hidden=("expressions_per_second",))

    @property
    def command(self) -> str:
        """What makes the rows, with the shared weights (their hash is that of the report)."""
        words = ["python", self.tool, _shorten(self.run.get("config")), self.weights]
        for option, key in (("--datasets", "dataset"), ("--splits", "split")):
            words += [option, *dict.fromkeys(row[key] for row in self.rows)]
        protocols = {row["protocol"] for row in self.rows}.intersection(("standard", "flmm"))
        if protocols:
            words += ["--protocol", "both" if len(protocols) > 1 else protocols.pop()]
        if self.run.get("limit"):
            words += ["--limit", str(self.run["limit"])]
        return " ".join(words)

    @property
    def origin(self) -> str:
        """Under what the figures were made."""
        run = self.run
        where = [
            f"checkpoint `{_shorten(run.get('checkpoint'))}`, SHA-256 `{run.get('sha256')}`",
            f"reader `{_shorten(run.get('reader'))}`",
            f"device {run.get('device')}",
            f"seed {run.get('seed')}",
            *(f"{name} {version}" for name, version in dict(run.get("versions") or {}).items()),
        ]
        if run.get("limit"):
            where.insert(0, f"**only the first {run['limit']} images of each split**")
        return ", ".join(where)


def build_card(
    model: nn.Module,
    record: dict[str, Any],
    name: str,
    options: CardOptions,
    config_name: str | Path | None,
) -> str:
    """The text of a head's README.md.

    Args:
        model: the grounder; ``record`` is its config.json.
        name: of the head, where there is no ``repo_id``.
        config_name: of the training, for the commands.
    """
    source = options.repo_id or name
    name = source.rpartition("/")[2]
    weights, weights_hash = f"{name}/model.safetensors", sample_weights_hash(model)
    results = [read_results(path, weights_hash, weights) for path in options.results]
    config = _shorten(config_name) if str(config_name).endswith(".py") else "CONFIG"
    measure = f"python {TOOLS['Referring segmentation']} {config} {weights} --protocol both"
    is_of_hub = record["reader"]["source"] == "hub"
    data = ModelCardData(
        license=options.license,
        library_name="flmm",
        base_model=options.base_model or (record["reader"]["name"] if is_of_hub else None),
        pipeline_tag=TASK,
        tags=[*TAGS, record["reader"]["sizes"]["model_type"]],
        model_name=name,
        eval_results=[figure for result in results for figure in _list_figures(result)] or None,
    )
    sizes: Counter[str] = Counter()
    for key, tensor in model.state_dict().items():
        sizes[key.partition(".")[0]] += tensor.numel()
    measured = {row["protocol"] for result in results for row in result.rows}
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        name=name,
        source=source,
        record=record,
        reader=format_reader(record["reader"]),
        base_model=options.base_model,
        downloads=DOWNLOADS,
        parts=", ".join(f"{part} {count:,}" for part, count in sizes.items()),
        results=results,
        protocols={key: spec.words for key, spec in PROTOCOLS.items() if key in measured},
        measure=measure,
    )
    return card.content + "\n"


def read_results(path: str | Path, weights_hash: str, weights: str) -> Results:
    """A report of the evaluation tools on weights of a ``sample_weights_hash``, in that file.

    Raises:
        ValueError: it is no such report, has no figure, or measured something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"report {path} does not exist: --results takes the JSON files "
            f"that {' and '.join(TOOLS.values())} write"
        )
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        tool, run = TOOLS[content["title"]], dict(content["run"])
        rows = [{"way": TRAINED, **row} for row in content["rows"]]
        is_whole = all(isinstance(row[key], str) for row in rows for key in NAMES)
        is_whole &= all(row["protocol"] in PROTOCOLS for row in rows)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is no JSON report of {' or '.join(TOOLS.values())}: {error!r}"
        ) from error
    if not rows or not is_whole:
        raise ValueError(f"{path} has no figure of a named data set, split and protocol")
    if run.get("weights_hash") != weights_hash:
        what = f"checkpoint {run['checkpoint']}" if run.get("checkpoint") else "baselines alone"
        raise ValueError(
            f"{path} measured {what}, whose weights are not those of this head: evaluate the head "
            "that is shared"
        )
    return Results(tool, [row for row in rows if row["way"] == rows[0]["way"]], run, weights)


def _list_figures(result: Results) -> Iterator[EvalResult]:
    """Figures of whole splits, as the hub reads them from the front matter."""
    rows = [] if result.run.get("limit") else result.rows
    for row in rows:
        of = f"protocol {row['protocol']}, {row['mask']} masks"
        for name in list_figures(rows):
            if row["group"] == "all" and row["mask"] != "coarse" and row.get(name) is not None:
                yield EvalResult(
                    task_type=TASK,
                    dataset_type=row["dataset"],
                    dataset_name=f"{row['dataset']} ({row['protocol']} protocol)",
                    # Without it the hub's library would mix the protocols.
                    dataset_config=row["protocol"],
                    dataset_split=row["split"],
                    metric_type=name,
                    metric_name=f"{name}, percent ({of})",
                    metric_value=round(row[name], 2),
                )


def _shorten(path: Any) -> str:
    """A path without what only this machine has: from one of the usual folders on."""
    path = Path(str(path))
    if not path.is_absolute():
        return str(path)
    usual = [index for index, part in enumerate(path.parts) if part in _USUAL_FOLDERS]
    return str(Path(*path.parts[usual[-1] :])) if usual else path.name
