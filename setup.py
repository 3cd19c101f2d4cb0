"""Metadata and dependencies of flmm. Tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "flmm/__init__.py").read_text(), re.M)[1]

setup(
    name="flmm",
    version=VERSION,
    description="Make a frozen vision-language model point at pixels: words in, masks out.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # The configs go into the wheel, so that their names work without the repository.
    packages=[*find_packages(include=["flmm", "flmm.*"]), "flmm.configs"],
    package_dir={"flmm": "flmm", "flmm.configs": "configs"},
    package_data={
        "flmm": ["assets/**/*", "assets/*", "sharing/*.md", "**/*.css", "**/*.html", "**/*.js"],
        "flmm.configs": ["**/*.py", "**/*.json"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",  # segment-anything and qwen-vl-utils import it
        # 5.3.0 to 5.5.3 place still pictures of Qwen2.5-VL wrongly in time (positions that are not
        # the published ones are refused, see flmm/readers/families/qwen.py); the
        # get_rope_index of 5.0 takes no mm_token_type_ids.
        "transformers>=5.5.4",
        "accelerate>=1.0",  # device_map
        "safetensors>=0.5",
        "huggingface_hub>=1.0",  # shared heads; transformers brings it
        "mmengine>=0.10.7",
        "mmdet>=3.3",
        # mmdet 3.3 refuses mmcv >= 2.2; the lite build needs no compiler (see flmm/mmcv_ops.py).
        "mmcv-lite>=2.1,<2.2",
        "segment-anything>=1.0",
        "qwen-vl-utils>=0.0.11",
        "pycocotools>=2.0.8",
        "numpy>=1.26",
        "pillow>=10.1",
        "opencv-python>=4.9",
        "matplotlib>=3.8",
        "tensorboard>=2.18",
        "tqdm>=4.66",
        "prompt_toolkit>=3.0.38",  # lines typed in a terminal
        "rich>=13.8",  # text and tables shown in one; 13.8 ends quietly where nobody reads
        "setuptools>=70",  # mmengine imports pkg_resources-era modules from it
    ],
    extras_require={
        "web": ["starlette>=0.40", "uvicorn>=0.30"],  # tools/web_demo.py
        "results": ["supervision>=0.26", "pandas>=2.1"],  # to_supervision(), to_pandas()
        "noun-chunks": ["spacy>=3.7"],  # the phrase selector of that name
        "dev": [
            "starlette>=0.40",
            "uvicorn>=0.30",
            "httpx>=0.27",  # starlette's test client
            "spacy>=3.7",
            "supervision>=0.26",
            "pandas>=2.1",
            "playwright>=1.45",  # drives a Chromium that is installed already, for the page's test
            "axe-playwright-python>=0.1.4",  # accessibility rules, for the same
            "pyte>=0.8",  # shows what a terminal shows, for the conversation's test
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.13",
        ],
    },
)
