"""Downloads a file: resumed where it stopped, checked before it appears under its name."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from tqdm import tqdm

from faiss_pqvae.files import space_for

_CHUNK_BYTES = 1 << 18


def download(
    url: str,
    target: Path,
    *,
    md5: str,
    size_bytes: int,
    timeout_s: float = 30.0,
    progress: bool = True,
) -> Path:
    """Fetches a file of known size and checksum.

    The bytes go to `target` with ".part" appended; a part left by an earlier call is continued
    where the server allows it. `target` appears at once and complete, or not at all. A target that
    exists is left as it is. Two processes must not fetch one target at the same time.

    Args:
        url: http or https.
        target: where the file goes; its folder is created once the server answers.
        md5: the checksum, in hexadecimal.
        size_bytes: the exact size.
        timeout_s: how long to wait for the server.
        progress: show a progress bar on standard error.

    Returns:
        `target`.

    Raises:
        ValueError: the address is no http(s) address, or what came has another size or checksum;
            the part is removed then.
        OSError: the connection failed or ended early, or a file cannot be written; the part stays,
            and the next call continues it.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected an http or https address, got {url!r}")
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    if part.exists() and part.stat().st_size > size_bytes:
        part.unlink()
    if not part.exists() or part.stat().st_size < size_bytes:
        _fetch(url, part, size_bytes, timeout_s, progress)
    got = _md5(part)
    if got != md5:
        part.unlink()
        raise ValueError(f"{url} has another checksum: expected md5 {md5}, got {got}; removed it")
    part.replace(target)
    return target


def _fetch(url: str, part: Path, size_bytes: int, timeout_s: float, progress: bool) -> None:
    """Brings `part` to `size_bytes` bytes."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            if done and not _continues(response, done):
                done = 0  # the server sends the whole file
            part.parent.mkdir(parents=True, exist_ok=True)
            with (
                space_for(part),
                part.open("ab" if done else "wb") as file,
                tqdm(
                    desc=part.stem,
                    total=size_bytes,
                    initial=done,
                    unit="B",
                    unit_scale=True,
                    disable=not progress,
                ) as bar,
            ):
                done += _copy(response, file, size_bytes - done, bar)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            done = size_bytes + 1  # the server's file ends before our part does
        else:
            raise OSError(f"{url} answered {error.code} {error.reason}") from None
    except http.client.HTTPException as error:
        raise OSError(f"{url} broke off: {error!r}; run again to continue") from error
    if done > size_bytes:
        part.unlink()
        raise ValueError(f"{url} has another size: expected {size_bytes} bytes; removed it")
    if done < size_bytes:
        raise OSError(f"{url} ended after {done} of {size_bytes} bytes; run again to continue")


def _continues(response: http.client.HTTPResponse, done: int) -> bool:
    """Whether the answer starts at byte `done`."""
    content_range = response.headers.get("Content-Range", "")
    return response.status == http.HTTPStatus.PARTIAL_CONTENT and content_range.startswith(
        f"bytes {done}-"
    )


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], limit: int, bar: "tqdm[object]"
) -> int:
    """Copies until the end, or one chunk past the limit; returns the bytes copied."""
    copied = 0
    while copied <= limit and (chunk := response.read(_CHUNK_BYTES)):
        file.write(chunk)
        copied += len(chunk)
        bar.update(len(chunk))
    file.flush()
    os.fsync(file.fileno())
    return copied


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        # A checksum against damage; nothing secret depends on it.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
