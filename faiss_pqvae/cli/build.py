"""The command `build`."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from faiss_pqvae.arguments import what_is_set
from faiss_pqvae.cli.collection import build_collection
from faiss_pqvae.cli.next_command import print_next
from faiss_pqvae.cli.plan import Wanted
from faiss_pqvae.cli.reading import DATA_HELP, Images, open_for
from faiss_pqvae.cli.sharding import Sharding, build_parts, set_effort
from faiss_pqvae.cli.storing import Named, named, next_ids, store
from faiss_pqvae.data.open import ImageOptions
from faiss_pqvae.files import check_folder
from faiss_pqvae.index.items import Items
from faiss_pqvae.messages import counted
from faiss_pqvae.types import IdArray

# Options without a prefix.
Parts = Annotated[Sharding, tyro.conf.arg(name="")]
Whole = Annotated[Wanted, tyro.conf.arg(name="")]
Paths = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="PATH...",
        help=f"BUNDLE DATA: a trained index, and what to store. The ids count from 0 in its order; "
        "in an index that takes ids (IDMap2, or inverted lists) files that it held keep theirs. "
        "`add` renumbers nothing. Or SOURCE... OUT: vectors, as paths or as patterns such as "
        f"'emb/*.parquet', and a folder for their index. Data are {DATA_HELP}",
    ),
]


def build(
    paths: Paths,
    /,
    *,
    out: Path | None = None,
    images: Images = ImageOptions(),  # noqa: B008 - frozen
    ids: Path | None = None,
    id_column: str | None = None,
    effort: int | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
    sharding: Parts = Sharding(),  # noqa: B008 - frozen
    wanted: Whole = Wanted(),  # noqa: B008 - frozen
) -> None:
    """Encode items and store their codes in a trained index, in place of what it held.

    Images are resized to what the index was trained with. `search` prints the names of
    the items: of their files, or the texts that --ids or --id-column give. More than one
    process wants to encode: --workers 4 --merge, or --part 17/400 on any machine and --merge in
    the end. Parts that are done stay, whatever dies, and the same command goes on.

    Or do it all, within --memory: SOURCE... OUT chooses an index for a collection of vectors (see
    `plan`), trains it on a sample, encodes in parts, joins them, and measures what it finds.

    Args:
        paths: of an index and its items, or of a collection and its index.
        out: folder for the filled index; by default BUNDLE itself.
        images: how images in a folder or in Parquet are read.
        ids: ids of your own, one an item: integers or texts, as .npy, as a list in .json, or as
            lines of .txt. Texts become the names of items, whose integer ids are counted.
        id_column: likewise, a column of the Parquet files that are read.
        effort: of the choice of codes, where these are sums (PQVAE8 over vectors, with RDecoder or
            without): 0 is the fastest, 16 the default, more is slower and decoded better. It is
            kept for `add`. Of a collection by default the most that takes two hours.
        encoder: the encoder that the index was trained with, if it is not ours.
        decoder: likewise.
        sharding: in parts.
        wanted: of a collection.
    """
    own = {"--ids": ids, "--id-column": id_column, "--encoder": encoder, "--decoder": decoder}
    given = [name for name, value in own.items() if value is not None]
    if len(paths) < 2:
        raise ValueError(
            f"expected BUNDLE DATA, or SOURCE... OUT, got {', '.join(paths) or 'nothing'}"
        )
    if _are_sources(paths):
        given += ["--out"] if out is not None else []
        given += [what_is_set(images)] if images != ImageOptions() else []
        given += [f"--{name}" for name in ("part", "parts", "merge") if getattr(sharding, name)]
        if given:
            raise ValueError(f"expected no {given[0]} for SOURCE... OUT, of which none is a bundle")
        wishes = wanted.wishes(workers=sharding.workers, effort=effort)
        build_collection(paths[:-1], Path(paths[-1]), wanted, wishes, sharding.engine)
        return
    if wanted != Wanted():
        raise ValueError(
            f"expected vectors before {paths[-1]} for {what_is_set(wanted)}, got the bundle "
            f"{paths[0]}"
        )
    if len(paths) > 2:
        raise ValueError(
            f"expected no further argument, got {paths[2]!r}: a folder stands for several files"
        )
    bundle, data = Path(paths[0]), paths[1]
    if sharding == Sharding():
        _build_at_once(bundle, data, out, images, ids, id_column, effort, encoder, decoder)
    elif given:
        raise ValueError(f"expected no {given[0]} where an index is built in parts")
    else:
        build_parts(bundle, data, out, images, effort, sharding)


def _are_sources(paths: Sequence[str]) -> bool:
    """Whether paths are those of a collection, and not of a bundle, which may be missing."""
    first = Path(paths[0])
    if first.is_dir():
        return not (first / "config.json").exists() and any(first.iterdir())
    return first.exists() or len(paths) > 2 or glob.has_magic(paths[0])


def _build_at_once(
    bundle: Path,
    data: str,
    out: Path | None,
    images: ImageOptions,
    ids: Path | None,
    id_column: str | None,
    effort: int | None,
    encoder: str | None,
    decoder: str | None,
) -> None:
    # Here, because they import torch, which --help does without.
    from faiss_pqvae import read_index, write_index
    from faiss_pqvae.index.latent_index import with_native
    from faiss_pqvae.native import faiss

    target = bundle if out is None else out
    check_folder(target)
    index = read_index(bundle, encoder=encoder, decoder=decoder)
    if effort is not None:
        set_effort(index, effort)
    source = open_for(index, data, images)
    found = named(source, data, ids, id_column)
    before = index.items
    index.reset()
    if not index.takes_ids and (found.ids is not None or found.gaps is not None):
        index = with_native(index, faiss.IndexIDMap2(index.faiss_index))
        index.description = f"IDMap2,{index.description}"
        print(f"the index counted its items; to keep these ids it is now {index.description}")
    numbers = _ids(found, before) if index.takes_ids else None
    store(index, source, numbers, data)
    index.items = found.names if numbers is None else found.names.under(numbers)
    write_index(index, target)
    print(f"{counted(index.ntotal, 'item')} of {index.sa_code_size()} bytes in {target}")
    print_next(index, f"search {shlex.quote(str(target))} QUERIES")


def _ids(found: Named, before: Items | None) -> IdArray:
    """The ids (n,) int64 of what is stored: given, or as before, or else by place."""
    if found.ids is not None:
        return found.ids
    places = np.arange(len(found.names)) if found.gaps is None else found.gaps
    if before is None:
        return places
    ids = found.names.rooted(before.root).ids_in(before)
    new = ids == -1
    if new.all():
        return places
    ids[new] = next_ids(before.all_ids(), int(new.sum()))
    return ids
