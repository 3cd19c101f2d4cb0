"""A question file in the benchmark's format about drawn scenes, with true boxes."""

import json
import random
from pathlib import Path

from PIL import Image

from flmm.toy.shape_sentences import list_sentences
from flmm.toy.shapes import render_scene

REQUEST = (
    " Please provide the bounding box coordinate of the region that can help you answer the "
    "question better."
)


def build_record(index, scene, item, phrase):
    """One record as the benchmark writes it: the box in pixels, and padded to a square in text."""
    height, width = scene.image_size
    rows, columns = item.mask.any(1).nonzero()[0], item.mask.any(0).nonzero()[0]
    x0, y0, x1, y1 = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    side = max(height, width)
    shift_x, shift_y = (side - width) // 2, (side - height) // 2
    edges = [x0 + shift_x, y0 + shift_y, x1 + shift_x, y1 + shift_y]
    path = f"cot/shapes/{index}.png"
    return {
        "dataset": "shapes",
        "split": "val",
        "question_id": 10 * index,
        "image": [path, f"{path}###[{x0}, {y0}, {x1}, {y1}]"],
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat color is the {phrase}?{REQUEST}"},
            {"from": "gpt", "value": f"[{', '.join(f'{edge / side:.3f}' for edge in edges)}]"},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": item.color},
        ],
    }


def write_questions(folder: Path, count: int, seed: int, name: str = "shapes") -> Path:
    """``<folder>/<name>.json`` about pictures under ``<folder>/cot/shapes``: its path."""
    records = []
    (folder / "cot/shapes").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rng = random.Random(f"visual cot {seed} {index}")
        while True:
            scene = render_scene(rng)
            named = [
                (item, sentence.text)
                for item in scene.objects
                for sentence in list_sentences(scene, item)
                if item.color not in sentence.text
            ]
            if named:
                break
        item, phrase = rng.choice(named)
        Image.fromarray(scene.image).save(folder / f"cot/shapes/{index}.png")
        records.append(build_record(index, scene, item, phrase))
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records))
    return path
