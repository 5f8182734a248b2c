"""docs/gpu.md: its tables are those of the stored check, and of the tests that wait for a card."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gpu.md").read_text()


def between(mark):
    """What the page has between two comments."""
    return PAGE.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0].strip()


def waiting():
    """The tests marked `gpu`, and what each would show."""
    lines = ["| test | what it would show |", "| --- | --- |"]
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            marks = [ast.unparse(each) for each in node.decorator_list]
            if "on_gpu" in marks:
                shows = " ".join((ast.get_docstring(node) or "").split())
                assert shows, f"{node.name} has no docstring"
                lines.append(f"| `{path.name}::{node.name}` | {shows} |")
    return "\n".join(lines)


def test_page__lists_the_tests_that_wait_for_a_card():
    assert between("tests") == waiting()
