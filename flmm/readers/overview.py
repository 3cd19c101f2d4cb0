"""Which readers there are and what each makes of a picture: the page docs/readers.md.

In: published sizes and their stand-ins. Out: tables. Tokens, grids and maps are those of the real
classes at published size, on the meta device, where nothing is allocated; exactness and cost are
measured on the same classes shrunk to seconds.
"""

from __future__ import annotations

import importlib
import math
import re
import tempfile
from statistics import median
from typing import Any

import numpy as np
import torch

from flmm.config.reading import list_configs
from flmm.meters import time_call
from flmm.readers.base import FrozenVLM
from flmm.readers.check import compare_with_eager
from flmm.readers.families import FAMILIES, Family, find_kind
from flmm.readers.loading import build_random_model
from flmm.readers.published_sizes import PUBLICATIONS, PUBLISHED_SIZES, write_published_model
from flmm.readers.stand_ins import find_stand_in
from flmm.tables import format_markdown

Rows = list[list[Any]]
PICTURE_PX = 480, 640  # (h, w) of many a photograph of COCO
PHRASES = ["the man", "a red cup", "left dog", "the large tree", "a car", "the sky", "his hat"]
FAMILY_TITLES = ["family", "model types", "papers", "special", "conversation", "pictures", "video"]
FAMILY_TITLES += ["boxes"]
SIZE_TITLES = ["size", "model type", "parameters", "layers x heads = maps", "tokens", "grids"]
SIZE_TITLES += ["configs"]
MEASURED_TITLES = ["model type", "exact to", "pointing over a bare prefill"]
_ROUNDS = 5
_PAGE = f"""# Readers

Written by `python tools/list_readers.py`; do not edit it by hand.

`load_reader`, configs, `tools/check_vlm.py` and `GroundingInferencer.from_reader` take any model of
these families, by its hub id or folder. [adding_a_vlm_family.md](adding_a_vlm_family.md) adds
another.

## Families
*Conversation*: a question may follow an answer. *Pictures*: of one conversation. *Boxes*: a source
says how its models are asked for boxes, which the box baseline needs.

{{families}}

## Published sizes
*Maps*: attention layers x heads, of each grid. *Tokens*: of a photograph of {PICTURE_PX[1]} x
{PICTURE_PX[0]} px, text between them left out. *Grids*: cells (h x w), the finest first; what lies
between rows or tiles belongs to none. Parameters as the hub counts them; *own count*: of the model
as it is built here. Not every model's `config.json` was at hand; where a folder says otherwise, the
folder is what is read. Each of them is ready in
`python tools/check_vlm.py SIZE_OR_HUB_ID --small`.

{{sizes}}

## Measured
On {{machine}}: the smallest size of each kind with few narrow layers (`--small`), random weights,
float32. *Exact to*: relative difference of the maps from one eager pass of transformers per phrase,
rounded up to a power of ten. *Pointing*: seconds of reading a picture of {PICTURE_PX[1]} x
{PICTURE_PX[0]} px and attending to {len(PHRASES)} phrases over those of reading alone, medians of
{_ROUNDS} rounds. Of so small models the fixed cost of a pass is the greater part; at real widths
the ratio is near 1, see [benchmarks.md](benchmarks.md).

{{measured}}
"""


def write_page(machine: str) -> str:
    """The whole page; ``machine`` says where its figures are measured."""
    return _PAGE.format(
        machine=machine,
        families=format_markdown([FAMILY_TITLES, *list_families()]),
        sizes=format_markdown([SIZE_TITLES, *(describe_size(name) for name in PUBLICATIONS)]),
        measured=format_markdown([MEASURED_TITLES, *map(measure, list_kinds())]),
    )


def list_families() -> Rows:
    """A row per family: what its models are called, and what is special."""
    rows: Rows = []
    for family in dict.fromkeys(map(_find_class, FAMILIES)):
        kinds = [name for name in FAMILIES if _find_class(name) is family]
        own = [name for name in PUBLICATIONS if find_kind_of(name) in kinds]
        papers = dict.fromkeys(PUBLICATIONS[name].paper for name in own)
        links = [f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers if paper]
        rows.append([family.__name__, ", ".join(kinds), ", ".join(links) or None, family.special])
        rows[-1] += ["yes" if family.converses else "no"]
        rows[-1] += ["any number" if family.max_pictures is None else str(family.max_pictures)]
        rows[-1] += ["no", "no" if family.box_format is Family.box_format else "yes"]
    return rows


def build_published(name: str) -> FrozenVLM:
    """A published size on the meta device, with the stand-in of its processor."""
    values = PUBLISHED_SIZES[name]
    stand_in = find_stand_in(values)
    processor = stand_in.make_processor(values)
    config = stand_in.build_config(values, processor)
    with torch.device("meta"):
        model = build_random_model(config, "bfloat16", "sdpa", seed=0)
    return FrozenVLM(model, processor=processor)


def describe_size(name: str, vlm: FrozenVLM | None = None) -> list[Any]:
    """A row: maps of a published size, and what a picture becomes.

    Args:
        vlm: what :func:`build_published` gave, where that is at hand.
    """
    vlm = vlm or build_published(name)
    seen = vlm.image_processor.encode(_draw())
    grids = " + ".join(f"{height} x {width}" for height, width in (one.size for one in seen.grids))
    tokens = int((seen.token_ids == vlm.model.config.image_token_id).sum())
    about, kind = PUBLICATIONS[name], vlm.model.config.model_type
    link = f"[{name}](https://huggingface.co/{about.hub_ids[0]})"
    maps = f"{vlm.num_layers} x {vlm.num_heads} = {vlm.num_maps}"
    count = f"{about.parameters / 1e9:.3g} B" + " (own count)" * about.counted_here
    return [link, kind, count, maps, tokens, grids, _link_configs(name)]


def measure(kind: str) -> list[Any]:
    """A row: how exact the smallest size of a kind is read when shrunk, and what pointing costs."""
    own = [name for name in PUBLICATIONS if find_kind_of(name) == kind]
    smallest = min(own, key=lambda name: PUBLICATIONS[name].parameters)
    with tempfile.TemporaryDirectory() as folder:
        write_published_model(smallest, folder, is_small=True)
        vlm = FrozenVLM(folder, dtype="float32", random_init=True)
    image, device = vlm.image_processor.encode(_draw()), torch.device("cpu")
    difference = compare_with_eager(vlm, vlm.prefill(image))["relative_difference"]
    seconds = [
        (
            time_call(lambda: vlm.prefill(image), device),
            time_call(lambda: vlm.attend(vlm.prefill(image), PHRASES), device),
        )
        for _ in range(_ROUNDS)
    ]
    bare, pointing = (median(column) for column in zip(*seconds))
    return [kind, round_up(difference), pointing / bare]


def list_kinds() -> list[str]:
    """The keys of ``FAMILIES`` that there are published sizes of."""
    return list(dict.fromkeys(map(find_kind_of, PUBLICATIONS)))


def find_kind_of(name: str) -> str:
    """The key of ``FAMILIES`` that a published size is of."""
    values = PUBLISHED_SIZES[name]
    return find_kind(values["model_type"], values.get("vision_config", {}).get("model_type"))


def round_up(difference: float) -> str:
    """To a power of ten: ``"1e-06"``."""
    return f"{10.0 ** math.ceil(math.log10(max(difference, 1e-12))):.0e}"


def name_leaf(size: str) -> str:
    """The beginning of the names of a published size's configs."""
    return re.sub("[^a-z0-9]+", "_", size.lower())


def _draw() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*PICTURE_PX, 3), dtype=np.uint8)


def _find_class(kind: str) -> type[Family]:
    module, _, name = FAMILIES[kind].partition(":")
    return getattr(importlib.import_module(f"flmm.readers.families.{module}"), name)


def _link_configs(size: str) -> str:
    titles = {"refcoco": "RefCOCO", "refcoco_png": "mixture"}
    stems = {f"{name_leaf(size)}_unet_sam_l_{data}": title for data, title in titles.items()}
    return ", ".join(
        f"[{stems[path.stem]}](../configs/{path.parent.name}/{path.name})"
        for path in list_configs()
        if path.stem in stems
    )
