"""The model card of a shared head: what it is, how it is used, what was measured.

In: the record of a head and the reports of the evaluation tools. Out: Markdown with the hub's YAML
front matter. A figure stands in it only if a report gives it, the report measured these very
weights, and data set, split, protocol and command stand beside it; else the card says "not
measured" and how to measure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from flmm.fingerprints import sample_weights_hash
from flmm.sharing.shared_reader import format_reader
from flmm.sharing.shared_refiner import DOWNLOADS
from flmm.tables import format_markdown

TASK = "image-segmentation"
TAGS = ["flmm", "referring-image-segmentation", "visual-grounding", "qwen-vl"]
TOOLS = {
    "Referring segmentation": "tools/eval_refcoco.py",
    "Panoptic narrative grounding": "tools/eval_png.py",
}
PROTOCOLS = {
    "standard": "every sentence of every object, each alone",
    "flmm": "the first sentence of each object, an image's sentences joined into one text",
    "narrative": "the noun phrases of a caption, each after the words before it",
}
_NAMES = ("dataset", "split", "protocol", "group", "mask")
_COUNTS = ("expressions", "images", "skipped", "empty_truths", "no_box")
_SPEED = "expressions_per_second"
_USUAL_FOLDERS = ("configs", "work_dirs", "checkpoints")
_PAPER = "https://arxiv.org/abs/2406.05821"


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
    """One report: rows of figures in percent, and where they come from.

    Attributes:
        tool: that wrote it.
        rows: as the tool's table has them.
        run: config, checkpoint, hashes, device, versions.
    """

    tool: str
    rows: list[dict[str, Any]]
    run: dict[str, Any]


def build_card(
    model: nn.Module,
    record: dict[str, Any],
    name: str,
    options: CardOptions,
    config_name: str | Path | None,
) -> str:
    """The text of a head's README.md.

    Args:
        model: the grounder.
        record: its config.json.
        name: of the head, where there is no ``repo_id``.
        options: what else is known.
        config_name: of the training, for the commands.

    Raises:
        FileNotFoundError: a report does not exist.
        ValueError: a report is none, or measured other weights.
    """
    weights_hash = sample_weights_hash(model)
    results = [read_results(path, weights_hash) for path in options.results]
    source = options.repo_id or name
    config = _shorten(config_name) if str(config_name).endswith(".py") else "CONFIG"
    parts = [
        f"---\n{_build_front_matter(record, source, options, results)}\n---",
        f"# {_get_name(source)}",
        _describe(model, record),
        _describe_use(source),
        _describe_needs(record, options),
        _describe_figures(results, config, source),
        _describe_files(),
    ]
    return "\n\n".join(parts) + "\n"


def read_results(path: str | Path, weights_hash: str) -> Results:
    """A report of the evaluation tools.

    Args:
        path: the JSON file.
        weights_hash: ``sample_weights_hash`` of the weights that it must have measured.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such report, has no figure, or measured something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"report {path} does not exist: --results takes the JSON files "
            f"that {' and '.join(TOOLS.values())} write"
        )
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        tool, run, rows = TOOLS[content["title"]], dict(content["run"]), list(content["rows"])
        is_whole = all(isinstance(row[key], str) for row in rows for key in _NAMES)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is no JSON report of {' or '.join(TOOLS.values())}: {error!r}"
        ) from error
    if not rows or not is_whole:
        raise ValueError(f"{path} has no figure of a named data set, split and protocol")
    if run.get("weights_hash") != weights_hash:
        what = "the baseline" if run.get("baseline") else f"checkpoint {run.get('checkpoint')}"
        raise ValueError(
            f"{path} measured {what}, whose weights are not those of this head: evaluate the head "
            "that is shared"
        )
    return Results(tool, rows, run)


def _build_front_matter(
    record: dict[str, Any], source: str, options: CardOptions, results: Sequence[Results]
) -> str:
    """YAML that the hub reads: licence, base model, task, and the figures of whole splits."""
    base_model = record["reader"]["name"] if record["reader"]["source"] == "hub" else None
    figures = [
        _build_figure(row, name)
        for result in results
        if not result.run.get("limit")
        for row in result.rows
        if row["group"] == "all" and row["mask"] != "coarse"
        for name in _list_figures(row)
        if row[name] is not None
    ]
    data = ModelCardData(
        license=options.license,
        library_name="flmm",
        base_model=options.base_model or base_model,
        pipeline_tag=TASK,
        tags=TAGS,
        model_name=_get_name(source),
        eval_results=figures or None,
    )
    return data.to_yaml()


def _build_figure(row: dict[str, Any], name: str) -> EvalResult:
    return EvalResult(
        task_type=TASK,
        dataset_type=row["dataset"],
        dataset_name=f"{row['dataset']} ({row['protocol']} protocol)",
        dataset_config=row["protocol"],  # without it the hub's library would mix the protocols
        dataset_split=row["split"],
        metric_type=name,
        metric_name=f"{name}, percent (protocol {row['protocol']}, {row['mask']} masks)",
        metric_value=round(row[name], 2),
    )


def _describe(model: nn.Module, record: dict[str, Any]) -> str:
    parts: Counter[str] = Counter()
    for key, tensor in model.state_dict().items():
        parts[key.partition(".")[0]] += tensor.numel()
    sizes = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    return (
        "Masks for words, from the attention of a frozen vision-language model: "
        f"{format_reader(record['reader'])}. The model itself is neither changed nor in this "
        "repository. Made with flmm, after F-LMM ([Grounding Frozen Large Multimodal Models]"
        f"({_PAPER})).\n\nTrained values: {sizes}."
    )


def _describe_use(source: str) -> str:
    return f"""## Use

```python
from flmm import GroundingInferencer

grounder = GroundingInferencer.from_pretrained("{source}")
result = grounder("photo.jpg", ["the dog on the left", "the red ball"])

result.masks  # bool [P, H, W], pixels of the picture
result.scores  # float [P], mean foreground probability of the mask
```"""


def _describe_needs(record: dict[str, Any], options: CardOptions) -> str:
    reader, refiner = record["reader"], record["refiner"]
    lines = [f"- The reader: {format_reader(reader)}, under its own licence."]
    if reader["source"] == "folder":
        origin = f" (base model {options.base_model})" if options.base_model else ""
        lines[0] += (
            f" It was loaded from a folder{origin}: put it into `checkpoints/{reader['name']}`, or "
            'give `cfg_options={"reader": FOLDER}`.'
        )
    if refiner is not None and refiner["source"] == "file":
        lines.append(
            f"- SAM's published weights `{refiner['file']}` (SHA-256 `{refiner['sha256']}`) in "
            f"`checkpoints/`, from <{DOWNLOADS}>: its image encoder was not trained."
        )
    if refiner is not None and refiner["source"] == "embedded":
        lines.append("- SAM: the tiny one embedded in flmm.")
    return "## What it needs\n\n" + "\n".join(lines)


def _describe_figures(results: Sequence[Results], config: str, source: str) -> str:
    if not results:
        weights = f"{_get_name(source)}/model.safetensors"
        command = f"python {TOOLS['Referring segmentation']} {config} {weights} --protocol both"
        return (
            "## Figures\n\nNot measured. With the config of the training, this folder and data "
            f"laid out as flmm's docs/data.md says:\n\n```\n{command}\n```"
        )
    tables = [_describe_results(result, source) for result in results]
    named = {row["protocol"] for result in results for row in result.rows}
    legend = [f"- protocol `{name}`: {text}" for name, text in PROTOCOLS.items() if name in named]
    return "\n\n".join(["## Figures", "Percent.", *tables, "\n".join(legend)])


def _describe_results(result: Results, source: str) -> str:
    run = result.run
    table = format_markdown(_build_table(result))
    where = [
        f"checkpoint `{_shorten(run.get('checkpoint'))}`, SHA-256 `{run.get('sha256')}`",
        f"reader `{_shorten(run.get('reader'))}`",
        f"device {run.get('device')}",
        f"seed {run.get('seed')}",
        *(f"{name} {version}" for name, version in dict(run.get("versions") or {}).items()),
    ]
    if run.get("limit"):
        where.insert(0, f"**only the first {run['limit']} images of each split**")
    command = f"```\n{_rebuild_command(result, source)}\n```"
    return f"{table}\n\n{command}\n\n{', '.join(where)}."


def _build_table(result: Results) -> list[list[str]]:
    """Header and rows; groups of phrases only where the tool's own table shows them."""
    has_groups = result.tool == TOOLS["Panoptic narrative grounding"]
    rows = [row for row in result.rows if has_groups or row["group"] == "all"]
    names = [name for name in _NAMES if has_groups or name != "group"]
    figures = _list_figures(rows[0])
    counts = [name for name in _COUNTS if any(row.get(name) for row in rows)]
    titles = [name.replace("precision@", "P@").replace("_", " ") for name in [*figures, *counts]]
    table = [[*names, *titles]]
    for row in rows:
        cells = ["-" if row.get(name) is None else f"{row[name]:.2f}" for name in figures]
        table.append([*(row[name] for name in names), *cells, *(str(row[name]) for name in counts)])
    return table


def _rebuild_command(result: Results, source: str) -> str:
    """The command that makes the report's rows, with the shared weights (their hash is equal)."""
    run, rows = result.run, result.rows
    weights = f"{_get_name(source)}/model.safetensors"
    words = ["python", result.tool, _shorten(run.get("config")), weights]
    for option, key in (("--datasets", "dataset"), ("--splits", "split")):
        words += [option, *dict.fromkeys(row[key] for row in rows)]
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    if result.tool == TOOLS["Referring segmentation"]:
        words += ["--protocol", protocols[0] if len(protocols) == 1 else "both"]
    if run.get("limit"):
        words += ["--limit", str(run["limit"])]
    return " ".join(words)


def _describe_files() -> str:
    return (
        "## Files\n\n`model.safetensors` holds all that was trained, `config.json` every setting "
        "(reader, its revision, prompt, mask head, refiner). Neither holds code."
    )


def _get_name(source: str) -> str:
    return source.rpartition("/")[2]


def _list_figures(row: dict[str, Any]) -> list[str]:
    return [name for name in row if name not in (*_NAMES, *_COUNTS, _SPEED)]


def _shorten(path: Any) -> str:
    """A path without what only this machine has: from one of the usual folders on."""
    path = Path(str(path))
    if not path.is_absolute():
        return str(path)
    usual = [index for index, part in enumerate(path.parts) if part in _USUAL_FOLDERS]
    return str(Path(*path.parts[usual[-1] :])) if usual else path.name


__all__ = ["CardOptions", "Results", "build_card", "read_results"]
