"""What the site has that its pages do not: links out of docs/, figures, generated references."""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
FIGURES = "results/figures"
ELSEWHERE = "https://github.com/faiss-pqvae/faiss-pqvae/blob/main"
COLUMNS = "100"


def on_files(files: Any, config: Any) -> Any:
    """Figures of results lie outside of docs/."""
    for path in sorted((ROOT / FIGURES).glob("*.svg")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Generated sections, and links that lead somewhere on the site or in the repository."""
    if page.file.src_uri == "reference/api.md":
        markdown = _filled(markdown, "api", api())
    if page.file.src_uri == "reference/cli.md":
        markdown = _filled(markdown, "cli", cli())
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def led(found: re.Match[str]) -> str:
        target = found[1]
        if target.startswith(("http://", "https://", "#")):
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target.partition("#")[0]))
        if path.startswith("docs/"):
            return found[0]
        if path.startswith(f"{FIGURES}/"):
            inside = posixpath.relpath(f"docs/figures/{posixpath.basename(path)}", folder)
            return f"]({inside})"
        if not (ROOT / path).exists():
            raise ValueError(f"{page.file.src_uri}: a link to {target}, where nothing is")
        return f"]({ELSEWHERE}/{path})"

    return re.sub(r"\]\(([^)\s]+)\)", led, markdown)


def _filled(markdown: str, mark: str, text: str) -> str:
    before, _, rest = markdown.partition(f"<!-- {mark} -->")
    return f"{before}{text}{rest.partition(f'<!-- /{mark} -->')[2]}"


def api() -> str:
    """A block for every public name, and none without a docstring.

    Raises:
        ValueError: a public name that nothing is said of.
    """
    import faiss_pqvae

    lines = []
    for name in sorted(faiss_pqvae.__all__, key=str.lower):
        thing = getattr(faiss_pqvae, name)
        if not inspect.getdoc(thing):
            raise ValueError(f"expected a docstring of faiss_pqvae.{name}, got none")
        if inspect.isclass(thing) or inspect.isfunction(thing):
            lines.append(f"::: {thing.__module__}.{thing.__qualname__}\n")
        else:  # a registry
            lines.append(f"### {name}\n\nA `Registry`: {inspect.getdoc(type(thing))}\n")
    return "\n".join(lines)


def cli() -> str:
    """The help of every command, as it is printed."""
    from faiss_pqvae.cli import COMMANDS

    texts = [f"```text\n{_help()}```\n"]
    texts += [f"## {name}\n\n```text\n{_help(name)}```\n" for name in COMMANDS]
    return "\n".join(texts)


def _help(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "faiss_pqvae", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": COLUMNS, "NO_COLOR": "1"},
    )
    return done.stdout
