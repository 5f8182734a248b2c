"""Packs what `gpu_check.py` needs on a machine with a card and nothing else: one small archive.

    make gpu-pack GPU_WHEELS=DIR        # dist/gpu-pack.tar.gz
    tar -xf gpu-pack.tar.gz && gpu-pack/run.sh --out DIR    # there: Python with PyTorch

The three folders of the package lie in one another, as an installed package's do. Wheels of what
such a machine lacks are unpacked beside, each only where its Python has no such package.
"""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import tyro

from faiss_pqvae.files import replace_bytes

ROOT = Path(__file__).parents[1]
MIB = 2**20
PLACES = {
    "faiss_pqvae": "faiss_pqvae",
    "training": "faiss_pqvae/training",
    "eval": "faiss_pqvae/eval",
    "benchmarks": "benchmarks",
}
SINGLE = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
# What the package imports and a Python with PyTorch may lack, apart from FAISS.
PACKAGES = ("tyro", "docstring_parser", "typeguard", "typing_extensions", "tqdm", "safetensors")
_OF_FAISS = ("*.whl", "*.sh", "*.c", "*.map")

RUN = """\
#!/usr/bin/env bash
# Everything that runs on a card, checked and measured:
#
#   ./run.sh --out DIR [other options of benchmarks/gpu_check.py]
#
# PYTHON   with PyTorch for the card (default: python3)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
# Wheels are unpacked for what this Python lacks.
"$python" - "$here" <<'END' || exit 1
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

here = Path(sys.argv[1])
wheels = [*here.glob("wheels/*.whl")]
if not [*here.glob("faiss/*.sh")]:
    wheels += here.glob("faiss/*.whl")
for wheel in wheels:
    try:
        version(wheel.name.split("-")[0])
    except PackageNotFoundError:
        print(f"unpacking {wheel.name}")
        zipfile.ZipFile(wheel).extractall(here / "site")
END
export PYTHONPATH="$here:$here/site${PYTHONPATH:+:$PYTHONPATH}"
# What makes carried wheels of FAISS run here, where they need that.
for script in "$here"/faiss/*.sh; do
  [[ -f $script ]] && source "$script" "$here/faiss" "$here/faiss-site"
done
exec "$python" "$here/benchmarks/gpu_check.py" "$@"
"""


def tracked(root: Path = ROOT) -> dict[str, Path]:
    """Files of the project that are needed, by their place in the pack.

    Those that git knows or would take: a new one counts before its commit.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    said = subprocess.run(
        [*command, *PLACES, *SINGLE], cwd=root, capture_output=True, text=True, check=True
    )
    found = {}
    for name in filter(None, said.stdout.split("\0")):
        folder, _, rest = name.partition("/")
        place = f"{PLACES[folder]}/{rest}" if rest else name
        if (root / name).is_file():  # one that was removed is known until the commit
            found[place] = root / name
    return found


def download(folder: Path, root: Path = ROOT) -> dict[str, Path]:
    """Wheels of `PACKAGES`, in the versions that were tested, by their place in the pack."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "-c", str(root / "constraints.txt"), "-d", str(folder)]
    subprocess.run([*command, *PACKAGES], check=True)
    return {f"wheels/{path.name}": path for path in folder.glob("*.whl")}


def of_faiss(folder: Path | None) -> dict[str, Path]:
    """Wheels of FAISS, and the script that makes them run, by their place in the pack.

    Raises:
        SystemExit: a folder without wheels.
    """
    if folder is None:
        return {}
    found = {f"faiss/{path.name}": path for kind in _OF_FAISS for path in folder.glob(kind)}
    if not any(name.endswith(".whl") for name in found):
        raise SystemExit(f"expected wheels of FAISS in {folder}, got none")
    return found


def write_pack(out: Path, files: dict[str, Path], *, limit_mib: float) -> int:
    """Writes the archive, the same for the same files.

    Args:
        out: the archive.
        files: by their place in it; `run.sh` comes along.
        limit_mib: of its size.

    Returns:
        Its bytes.

    Raises:
        SystemExit: it would be larger; nothing is written then.
    """
    contents = {place: path.read_bytes() for place, path in files.items()}
    contents["run.sh"] = RUN.encode()
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for place, content in sorted(contents.items()):
            entry = tarfile.TarInfo(f"gpu-pack/{place}")
            entry.size, entry.mode = len(content), 0o755 if place == "run.sh" else 0o644
            archive.addfile(entry, io.BytesIO(content))
    size = packed.getbuffer().nbytes
    if size > limit_mib * MIB:
        largest = sorted(contents, key=lambda place: -len(contents[place]))[:3]
        parts = ", ".join(f"{place} {len(contents[place]) / MIB:.1f} MiB" for place in largest)
        raise SystemExit(
            f"expected a pack of at most {limit_mib:g} MiB, got {size / MIB:.1f} MiB: {parts}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, packed.getvalue())
    return size


def main(
    *,
    out: Path = Path("dist/gpu-pack.tar.gz"),
    gpu_wheels: Path | None = None,
    limit_mib: float = 60,
) -> None:
    """Packs.

    Args:
        out: the archive.
        gpu_wheels: folder with wheels of FAISS for the machine's Python, and, where they need one,
            the script that makes them run there, with what it reads (*.sh, *.c, *.map). Without it
            the machine has to have faiss-gpu.
        limit_mib: a larger pack is refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {**tracked(), **download(Path(folder)), **of_faiss(gpu_wheels)}
        size = write_pack(out, files, limit_mib=limit_mib)
    faiss = "with FAISS" if gpu_wheels else "without FAISS: the machine has to have faiss-gpu"
    print(f"{out}: {size / MIB:.1f} MiB, {len(files) + 1} files, {faiss}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
