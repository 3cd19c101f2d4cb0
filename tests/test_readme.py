"""README and docs say what is true: code runs, commands parse, links and files exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import run_fork

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()


def find_blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.mark.parametrize("code", find_blocks(README, "python"))
def test_python_blocks_run(code):
    done = run_fork(code)
    assert done.returncode == 0, done.stderr


def test_the_blocks_of_the_results_page_run_one_after_the_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/results.md").read_text()
    exec(compile("\n".join(find_blocks(text, "python")), "docs/results.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tools_configs_and_tests_exist(page):
    pattern = r"(?<![\w/])((?:tools|configs|tests|flmm)/[\w./-]+\.py)\b"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda tool: tool.name)
def test_every_tool_explains_itself(tool):
    """At once: nothing that takes seconds to load is imported for it."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(tool)!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = 'torch transformers mmengine mmdet numpy cv2 gradio'.split()\n"
        "sys.exit(', '.join(name for name in heavy if name in sys.modules) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_named_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (demo|test|lint|bench)\b", README):
        assert re.search(rf"^{target}:", makefile, re.M), target
