"""What tools/visual_cot.py does: every question of some files, answered once, on any processes.

In: a config and what was said on the command line. Out: the result file and its scores, the same
whatever the number of processes and interruptions: every answer is in a journal as soon as it is
known. Records that cannot be asked are listed, and tried again by the next run.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.config import Config
from tqdm import tqdm

from flmm.apps.visual_cot.chain import VisualCot
from flmm.apps.visual_cot.questions import (
    BadQuestionError,
    QuestionFile,
    VisualCotQuestion,
    read_question_files,
)
from flmm.apps.visual_cot.results import (
    Record,
    build_record,
    build_rows,
    format_bad,
    list_cells,
    write_results,
)
from flmm.apps.visual_cot.settings import build_settings
from flmm.checkpoints.chosen_weights import choose_weights, tell_weights
from flmm.distributed import init_processes
from flmm.evaluation.journal import Journal
from flmm.fingerprints import hash_file, hash_json
from flmm.images import load_image
from flmm.inferencer import GroundingInferencer
from flmm.provenance import describe_device, describe_model, list_versions
from flmm.readers.context import ContextFullError
from flmm.tables import format_text


@dataclass
class VisualCotOptions:
    """What the tool is told beside the config.

    Attributes:
        questions: a question file, or a folder of them.
        images: folder that the pictures' paths start from.
        out: the result file, ``.json``.
        limit: only the first so many records of each file.
        restart: forget what an interrupted run had done.
    """

    questions: str
    images: str
    out: str
    version: str = "v1"
    checkpoint: str | None = None
    limit: int | None = None
    restart: bool = False
    device: str | None = None


def run_visual_cot(config: Config, options: VisualCotOptions) -> dict[str, Any]:
    """Answer the questions, write the results, print the table.

    Returns:
        the report: ``title``, ``rows`` in percent, ``bad`` (a sentence per record that could not
        be asked), ``run``.

    Raises:
        FileNotFoundError: there are no questions, or no folder of pictures.
        ValueError: a file or a setting cannot be used, or not one question could be asked.
    """
    _check(options)
    files = read_question_files(options.questions)
    settings = build_settings(config.get("visual_cot") or {})
    init_processes(config.get("launcher", "none"))
    inferencer = GroundingInferencer(config, options.checkpoint, options.device)
    tell_weights(inferencer.weights)
    visual_cot = VisualCot(inferencer, options.version, settings)
    run = _describe_run(visual_cot, config, options)
    records, bad = [], []
    for file in files:
        answered, reasons = _run_file(visual_cot, file, options, run)
        records += answered
        bad += reasons
    if not records:
        raise ValueError("no question could be asked" + (f"; the first: {bad[0]}" if bad else ""))
    report: dict[str, Any] = {
        "title": f"Visual chain of thought, {options.version}",
        "rows": build_rows(records),
        "bad": bad,
        "run": {"config": str(config.filename), "limit": options.limit}
        | run
        | {"processes": dist.get_world_size()},
    }
    if dist.is_main_process():
        paths = write_results(Path(options.out), records, report)
        print(format_text(list_cells(report["rows"])))
        print(*filter(None, [format_bad(bad)]), f"written: {', '.join(map(str, paths))}", sep="\n")
    dist.barrier()
    return report


def _check(options: VisualCotOptions) -> None:
    if Path(options.out).suffix != ".json":
        raise ValueError(f"--out {options.out}: give the result file a name that ends with .json")
    if not Path(options.images).is_dir():
        raise FileNotFoundError(f"--images {options.images} is no folder")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: give at least 1, or leave it out")


def _describe_run(
    visual_cot: VisualCot, config: Config, options: VisualCotOptions
) -> dict[str, Any]:
    """All that decides the answers beside the files."""
    inferencer = visual_cot.inferencer
    run = choose_weights(config, options.checkpoint).to_json()
    run |= {"version": options.version, "images": str(options.images)}
    run |= {"settings": asdict(visual_cot.settings)} | describe_model(inferencer.model)
    return run | {"device": describe_device(inferencer.device), "versions": list_versions()}


def _run_file(
    visual_cot: VisualCot, file: QuestionFile, options: VisualCotOptions, run: dict[str, Any]
) -> tuple[list[Record], list[str]]:
    """The records of one file in its order, and why others could not be asked."""
    rank, world_size, name = dist.get_rank(), dist.get_world_size(), file.path.stem
    content = hash_json([run, hash_file(file.path)])[:12]
    folder = Path(options.out).with_suffix(".journal") / f"{name}_{content}"
    if options.restart and dist.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
    dist.barrier()
    journal = Journal(folder, rank)
    dist.barrier()  # nobody appends before everybody has read
    places = range(min(len(file), options.limit or len(file)))
    asked = [place for place in places if place in file.questions]
    wanted = [place for place in asked if place not in journal.records]
    if len(wanted) < len(asked):
        done = len(asked) - len(wanted)
        dist.master_only(tqdm.write)(f"{name}: {done} questions were done before, going on")
    bad = {place: file.bad[place] for place in places if place in file.bad}
    own: dict[int, Record] = {}
    # Neighbours stay together: questions about one picture share its reading.
    first, last = (len(wanted) * number // world_size for number in (rank, rank + 1))
    pace = 0.2 if sys.stderr.isatty() else 30  # seconds; in a log file a line now and then
    hidden = not dist.is_main_process()
    for place in tqdm(wanted[first:last], name, unit="question", disable=hidden, mininterval=pace):
        try:
            own[place] = _ask(visual_cot, file.questions[place], Path(options.images))
        except BadQuestionError as error:
            bad[place] = str(error)
        else:
            journal.append(place, own[place])
    journal.close()
    for others, reasons in dist.all_gather_object((own, bad)):
        journal.records |= others
        bad |= reasons
    records = [journal.records[place] for place in asked if place not in bad]
    return records, [bad[place] for place in sorted(bad)]


def _ask(visual_cot: VisualCot, question: VisualCotQuestion, images: Path) -> Record:
    """The record of one question; an error where its picture cannot be read, or is too large."""
    try:
        encode = visual_cot.inferencer.model.vlm.image_processor.encode
        picture = encode(load_image(images / question.image, orientation="stored"))
    except (OSError, ValueError) as error:
        raise BadQuestionError(f"{question.source}: {error}") from error
    try:
        answer = visual_cot(picture, question.question)
    except ContextFullError as error:
        raise BadQuestionError(f"{question.source}: {error}") from error
    return build_record(question, answer, visual_cot.version)
