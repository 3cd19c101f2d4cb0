"""A data root is judged before hours are spent: what is there, what is wrong, what to do."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flmm.data.published import ReferDataset
from flmm.data.refer_files import load_refs
from flmm.data_checks.check_report import (
    SAMPLE_SIZE,
    DataReport,
    PictureCheck,
    decide,
    format_report,
)
from flmm.data_checks.data_check import check_data_root, check_refer_dataset
from flmm.toy.shape_files import write_dataset
from tests.data.conftest import make_annotations, make_refs
from tests.forks import run_fork

ROOT = Path(__file__).parents[2]
FILES = ReferDataset(
    "mini",
    "mini/instances.json",
    "mini/refs(unc).p",
    {"train": (6, 12), "val": (1, 2), "testA": (1, 1)},
    home="https://example.org",
)
UNPUBLISHED = FILES._replace(splits={})


@pytest.fixture
def root(tmp_path: Path, write_mini: Any) -> Path:
    """A data root in F-LMM's layout."""
    write_mini(tmp_path / "mini", make_refs(), make_annotations())
    (tmp_path / "mini" / "images").rename(tmp_path / "train2014")
    return tmp_path


def check(root: Path, full: bool = True, files: ReferDataset = FILES) -> DataReport:
    return check_refer_dataset(root, files, PictureCheck(full))


def change_refs(root: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = root / "mini" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    change(refs)
    path.write_bytes(pickle.dumps(refs, protocol=2))


def change_instances(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "mini" / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_complete_data_set(root: Path) -> None:
    report = check(root)
    assert report.troubles == []
    assert report.found[1:] == [
        "train           6         12        2  as published",
        "val             1          2        1  as published",
        "testA           1          1        1  as published",
        f"{root / 'train2014'}: 4 of 4 files are there",
        "4 pictures opened (all), 8 masks decoded",
    ]
    assert report.notes == [
        "1 of these masks are empty: RefCOCO's figures score them 0, gRefCOCO's and ReasonSeg's "
        "ask for nothing there, training leaves their expressions out",
    ]
    assert decide([report], "x") == (True, "ready: mini")


def save_unsafe(root: Path) -> None:
    (root / "mini" / "refs(unc).p").write_bytes(pickle.dumps([os.system], protocol=2))


def cut(name: str) -> Callable[[Path], None]:
    def cut_file(root: Path) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:-40])

    return cut_file


def move_down(root: Path) -> None:
    shutil.move(root / "train2014", root / "inner")
    (root / "train2014").mkdir()
    shutil.move(root / "inner", root / "train2014" / "train2014")


DEFECTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no instances": (
        lambda root: (root / "mini/instances.json").unlink(),
        "mini/instances.json is missing",
        "get it from https://example.org",
    ),
    "no refs": (
        lambda root: (root / "mini/refs(unc).p").unlink(),
        "mini/refs(unc).p is missing",
        "get it from https://example.org",
    ),
    "unsafe pickle": (save_unsafe, "cannot be read: refused to load posix.system", "get it anew"),
    "cut pickle": (cut("mini/refs(unc).p"), "refs(unc).p cannot be read", "get it anew from"),
    "cut JSON": (cut("mini/instances.json"), "instances.json is no readable JSON", "get it anew"),
    "count": (
        lambda root: change_refs(root, lambda refs: refs.pop(0)),
        "has 5 refs and 9 sentences in split train, published are 6 and 12",
        "get it anew from https://example.org",
    ),
    "a split is not there": (
        lambda root: change_refs(root, lambda refs: refs.pop(-1)),
        "has 0 refs and 0 sentences in split testA, published are 1 and 1",
        "get it anew",
    ),
    "annotation absent": (
        lambda root: change_refs(root, lambda refs: refs[0].update(ann_id=99)),
        "1 refs or sentences of mini/refs(unc).p cannot be used: ref 7 has ann_id 99, which is "
        "not in instances.json",
        "from one source (https://example.org), or set bad_records='skip'",
    ),
    "image record absent": (
        lambda root: change_instances(root, lambda content: content["images"].pop(0)),
        "4 refs or sentences of mini/refs(unc).p cannot be used: ref 3 has image_id 1, which is",
        "from one source",
    ),
    "one id, two refs": (
        lambda root: change_refs(root, lambda refs: refs[1].update(ref_id=7)),
        "ref 7 occurs more than once, with other content",
        "from one source",
    ),
    "no folder": (
        lambda root: shutil.rmtree(root / "train2014"),
        "there is no folder ",
        "unpack http://images.cocodataset.org/zips/train2014.zip so that its files lie in ",
    ),
    "image absent": (
        lambda root: (root / "train2014/3.png").unlink(),
        "1 files miss: 3.png",
        "unpack http://images.cocodataset.org/zips/train2014.zip",
    ),
    "one folder too deep": (
        move_down,
        "4 files miss: 1.png, 2.png, 3.png and 1 more",
        "move the content of ",
    ),
    "image cut off": (
        cut("train2014/2.png"),
        "1 of 4 pictures cannot be used: image ",
        "get these files anew, or set bad_records='skip'",
    ),
    "image of another size": (
        lambda root: Image.new("RGB", (17, 32)).save(root / "train2014/2.png"),
        "is 32 x 17 px (h x w), its annotation says 31 x 17",
        "get these files anew",
    ),
    "mask": (
        lambda root: change_instances(
            root, lambda content: content["annotations"][0].update(segmentation="?")
        ),
        "2 refs or sentences of mini/refs(unc).p cannot be used: ref 7 has ann_id 10, whose mask",
        "from one source",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_is_wrong_is_named_with_the_way_out(root: Path, defect: str) -> None:
    spoil, what, way_out = DEFECTS[defect]
    spoil(root)
    report = check(root)
    assert what in report.troubles[0].what
    assert way_out in report.troubles[0].way_out
    ready, line = decide([report], str(root))
    assert not ready
    assert line.startswith("not ready: mini: ")
    assert what in line
    assert "\n" not in line
    assert f"WRONG: {report.troubles[0].what}" in format_report(report)


def test_a_file_without_refs_is_not_ready(root: Path) -> None:
    change_refs(root, lambda refs: refs.clear())
    report = check(root, files=UNPUBLISHED)
    assert report.troubles[0].what == "mini/refs(unc).p holds no ref"


def test_the_other_files_are_checked_where_one_is_missing(root: Path) -> None:
    (root / "train2014/3.png").unlink()
    cut("train2014/2.png")(root)
    assert [trouble.what.partition(":")[0] for trouble in check(root).troubles] == [
        "1 files miss",
        "1 of 3 pictures cannot be used",
    ]


def test_blank_sentences_are_a_note(root: Path) -> None:
    change_refs(root, lambda refs: refs[0]["sentences"][0].update(raw=" "))
    report = check(root)
    assert "1 sentences are blank and left out: 700" in report.notes
    assert report.troubles == []


def test_refs_that_stand_there_twice_are_noted(root: Path) -> None:
    change_refs(root, lambda refs: refs.append(refs[0]))
    report = check(root, files=UNPUBLISHED)
    assert "1 records stand there twice, word for word; used once" in report.notes
    assert report.troubles == []


def test_a_sample_is_opened_and_all_with_full(tmp_path: Path, write_mini: Any) -> None:
    count = SAMPLE_SIZE + 50
    write_mini(tmp_path / "mini", [], [])
    (tmp_path / "train2014").mkdir()
    refs, images, annotations = [], [], []
    for index in range(count):
        Image.new("L", (9, 8)).save(tmp_path / "train2014" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": 8, "width": 9})
        annotations.append({"id": index, "image_id": index, "segmentation": [[1, 1, 6, 1, 6, 6]]})
        refs.append({**make_refs()[0], "ref_id": index, "ann_id": index, "image_id": index})
        refs[-1]["sentences"] = [{"sent_id": index, "raw": "a dog"}]
    change_instances(tmp_path, lambda c: c.update(images=images, annotations=annotations))
    change_refs(tmp_path, lambda old: old.extend(refs))
    for path in (tmp_path / "train2014").glob("*7.png"):
        path.write_bytes(b"")
    sample, full = check(tmp_path, False, UNPUBLISHED), check(tmp_path, True, UNPUBLISHED)
    assert "200 pictures opened (a sample; --full opens all), " in sample.found[-1]
    assert "250 pictures opened (all), 225 masks decoded" in full.found[-1]
    assert "25 of 250 pictures cannot be used: " in full.troubles[0].what
    (seen,) = (trouble.what for trouble in sample.troubles)
    assert 0 < int(seen.split()[0]) < 25
    assert check(tmp_path, False, UNPUBLISHED) == sample  # the same sample every time


def test_absent_data_sets_are_named_with_their_source(root: Path) -> None:
    (root / "mini").rename(root / "refcoco")
    reports = {report.name: report for report in check_data_root(root)}
    absent = [name for name, report in reports.items() if report.absent]
    assert absent == [
        *("refcoco+", "refcocog", "refcocog_google", "grefcoco", "png train", "png val"),
        *("reasonseg train", "reasonseg val", "reasonseg test"),
    ]
    for name in absent:
        assert format_report(reports[name]).startswith(f"{name}: absent; get it from http")
    assert "published: 42,404 and 120,624" in format_report(reports["refcoco"])
    reports["refcoco"].troubles.clear()
    assert decide(list(reports.values()), str(root)) == (
        True,
        "ready: refcoco (absent: refcoco+, refcocog, refcocog_google, grefcoco, png train (no "
        "training on narratives), png val (nothing for tools/eval_png.py), reasonseg train, "
        "reasonseg val, reasonseg test)",
    )


def test_named_data_sets_must_be_there(root: Path) -> None:
    (report,) = check_data_root(root, ["refcocog"])
    assert report.troubles[0].what == f"it is not in {root}"
    assert "refcocog/refs(umd).p" in report.troubles[0].way_out
    with pytest.raises(ValueError, match="there is no data set 'refclef': choose from refcoco, "):
        list(check_data_root(root, ["refclef"]))


def test_google_refs_may_be_absent_beside_umd(root: Path) -> None:
    (root / "mini").rename(root / "refcocog")
    (root / "refcocog/refs(unc).p").rename(root / "refcocog/refs(umd).p")
    reports = {report.name: report for report in check_data_root(root)}
    assert reports["refcocog_google"].absent is not None
    assert reports["refcocog"].absent is None


def test_an_empty_root(tmp_path: Path) -> None:
    ready, line = decide(list(check_data_root(tmp_path)), str(tmp_path))
    assert not ready
    assert line.startswith(f"not ready: no data set in {tmp_path} -> name the folder that holds")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder: name the folder"):
        list(check_data_root(tmp_path / "nowhere"))


# --- narratives ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_dataset(folder, 8, seed=2)
    return folder


@pytest.fixture
def png_root(tmp_path: Path, shapes: Path) -> Path:
    """Captions of synthetic scenes in the place of PNG's val split."""
    (tmp_path / "annotations").mkdir()
    for old, new in (
        ("png_train.json", "annotations/png_coco_val2017.json"),
        ("panoptic_train.json", "annotations/panoptic_val2017.json"),
    ):
        shutil.copy(shapes / old, tmp_path / new)
    shutil.copytree(shapes / "panoptic_train", tmp_path / "annotations/panoptic_val2017")
    shutil.copytree(shapes / "images", tmp_path / "val2017")
    return tmp_path


def check_png(root: Path) -> DataReport:
    return {report.name: report for report in check_data_root(root)}["png val"]


def test_complete_narratives(png_root: Path) -> None:
    report = check_png(png_root)
    assert report.troubles == []
    assert report.found[0].startswith("5 narratives with ")
    assert report.found[-1].startswith("5 pictures opened (all), ")


def test_panoptic_pictures_beside_the_images_are_found(png_root: Path) -> None:
    (png_root / "annotations/panoptic_val2017").rename(png_root / "panoptic_val2017")
    report = check_png(png_root)
    assert report.troubles == []
    assert "data_prefix=dict(panoptic_path='panoptic_val2017/')" in report.notes[0]


def change_segment(root: Path) -> None:
    path = root / "annotations/png_coco_val2017.json"
    content = json.loads(path.read_text())
    next(part for part in content[0]["segments"] if part["segment_ids"])["segment_ids"] = ["77"]
    path.write_text(json.dumps(content))


def spoil_first(folder: str, content: bytes | None) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = min((root / folder).glob("*_000001.png"))
        path.unlink() if content is None else path.write_bytes(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (
            lambda root: (root / "annotations/panoptic_val2017.json").unlink(),
            "annotations/panoptic_val2017.json is missing",
        ),
        (
            lambda root: shutil.rmtree(root / "annotations/panoptic_val2017"),
            "there is no folder ",
        ),
        (cut("annotations/png_coco_val2017.json"), "is no readable JSON"),
        (change_segment, "1 phrases cannot be used: "),
        (spoil_first("annotations/panoptic_val2017", None), "1 files miss: "),
        (spoil_first("val2017", None), "1 files miss: "),
        (spoil_first("annotations/panoptic_val2017", b"?"), "1 of 5 pictures cannot be used: pan"),
    ],
)
def test_what_is_wrong_with_narratives_is_named(
    png_root: Path, spoil: Callable[[Path], Any], what: str
) -> None:
    spoil(png_root)
    assert what in check_png(png_root).troubles[0].what


# --- the tool --------------------------------------------------------------------------------


def run_tool(*arguments: str) -> tuple[int, list[str]]:
    done = run_fork(ROOT / "tools/check_data.py", *arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.mark.process
def test_the_tool_ends_with_one_line_and_a_code(shapes: Path, tmp_path: Path) -> None:
    code, lines = run_tool(str(shapes), "--full")
    assert (code, lines[-1].startswith("ready: shapes/refs(unc).p, shapes/png_")) == (0, True)
    assert sum(line.startswith(("ready", "not ready")) for line in lines) == 1
    code, lines = run_tool(str(tmp_path), "--png")
    assert (code, lines[-1].startswith("not ready: png train: it is not in ")) == (1, True)


@pytest.mark.parametrize(
    ("missing", "consequence"),
    [
        ("train", "nothing can be trained"),
        ("val", "no training can be validated"),
        ("testA", "tools/test.py has nothing to test"),
        ("testB", "tools/eval_refcoco.py needs other --splits"),
    ],
)
def test_a_split_that_is_missing_is_named_with_what_it_is_for(
    shapes: Path, tmp_path: Path, missing: str, consequence: str
) -> None:
    for name in ("instances.json", "images"):
        (tmp_path / name).symlink_to(shapes / name)
    refs = [ref for ref in load_refs(shapes / "refs(unc).p") if ref["split"] != missing]
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    reports = list(check_data_root(tmp_path))
    ready, line = decide(reports, str(tmp_path))
    assert not ready
    assert f"refs(unc).p has no ref of split {missing}: {consequence}" in line
    others = sorted({ref["split"] for ref in refs})
    assert line.endswith(f"check only what you need: --splits {' '.join(others)}")
    ready, line = decide(list(check_data_root(tmp_path, splits=others)), str(tmp_path))
    assert ready, line
