"""The made-up data set has the published layout, and loading it is measured for what it is."""

import json
import pickle
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from flmm.data.published import REFER_DATASETS
from flmm.data.published_size import ANNOTATIONS, SPLIT_IMAGES, write_published_size
from tests.forks import run_fork

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_published_size(folder, seed=1, scale=0.01)
    return folder


def test_records_have_the_fields_of_the_real_ones(root: Path, data_dir: Path) -> None:
    def describe(value: object) -> object:
        if isinstance(value, dict):
            return {key: describe(item) for key, item in value.items()}
        if isinstance(value, list):
            return [describe(value[0])]
        return "number" if isinstance(value, (int, float)) else type(value)

    made, real = root / "refcoco", data_dir / "refcoco"
    for load, name in ((json.loads, "instances.json"), (pickle.loads, "refs(unc).p")):
        ours, theirs = (load((folder / name).read_bytes()) for folder in (made, real))
        if isinstance(ours, dict):
            assert set(ours) == set(theirs)
            for key in ("images", "annotations"):
                assert describe(ours[key][0]) == describe(theirs[key][0])
        else:
            assert describe(ours[0]) == describe(theirs[0])
    content = (made / "refs(unc).p").read_bytes()
    assert content[:2] == b"\x80\x02"  # protocol 2, as published


def test_masks_and_references_are_sound(root: Path) -> None:
    coco = COCO(str(root / "refcoco/instances.json"))
    refs = pickle.loads((root / "refcoco/refs(unc).p").read_bytes())
    assert len({ref["ann_id"] for ref in refs}) == len(refs) == 500
    for ref in refs:
        annotation = coco.anns[ref["ann_id"]]
        assert annotation["image_id"] == ref["image_id"]
        assert coco.imgs[ref["image_id"]]["file_name"] in ref["file_name"].replace(
            f"_{ref['ann_id']}.jpg", ".jpg"
        )
        assert coco.annToMask(annotation).any()
    splits = {image: {r["split"] for r in refs if r["image_id"] == image} for image in coco.imgs}
    assert all(len(names) == 1 for names in splits.values())


def test_the_size_is_the_published_one(root: Path) -> None:
    splits = REFER_DATASETS["refcoco"].splits
    assert set(SPLIT_IMAGES) == set(splits)
    refs = pickle.loads((root / "refcoco/refs(unc).p").read_bytes())
    for name, published in splits.items():
        chosen = [ref for ref in refs if ref["split"] == name]
        assert len(chosen) == pytest.approx(published.refs / 100, abs=1)
        sentences = sum(len(ref["sentences"]) for ref in chosen)
        assert sentences == pytest.approx(published.sentences / 100, abs=1)
        images = len({ref["image_id"] for ref in chosen})
        assert images == pytest.approx(SPLIT_IMAGES[name] / 100, abs=1)
    annotations = json.loads((root / "refcoco/instances.json").read_text())["annotations"]
    assert len(annotations) == pytest.approx(ANNOTATIONS / 100, abs=1)


def test_same_seed_same_bytes(root: Path, tmp_path: Path) -> None:
    write_published_size(tmp_path, seed=1, scale=0.01)
    for name in ("instances.json", "refs(unc).p"):
        assert (tmp_path / "refcoco" / name).read_bytes() == (root / "refcoco" / name).read_bytes()
    with pytest.raises(FileExistsError, match="refcoco is already there: name another folder"):
        write_published_size(tmp_path)


def test_the_tool_measures_both_loaders_on_all_sentences(root: Path, tmp_path: Path) -> None:
    options = ["--data-root", root, "--repeat", 1, "--splits", "val", "--out", tmp_path]
    done = run_fork(ROOT / "tools/benchmark_data.py", *options)
    assert done.returncode == 0, done.stderr
    costs = json.loads((tmp_path / "data_loading.json").read_text())["costs"]
    assert [cost["loader"] for cost in costs] == ["flmm", "mmdet"]
    refs = pickle.loads((root / "refcoco/refs(unc).p").read_bytes())
    expected = sum(len(ref["sentences"]) for ref in refs if ref["split"] == "val")
    for cost in costs:
        assert (cost["images"], cost["sentences"]) == (15, expected)
        assert 0 < cost["load_s"] < 60
        assert 0 <= cost["held_mib"] <= cost["peak_mib"]
    lines = (tmp_path / "data_loading.md").read_text().splitlines()
    assert [line.count("|") for line in lines] == [10] * 4
    assert lines[3].startswith("| val | mmdet | ")
