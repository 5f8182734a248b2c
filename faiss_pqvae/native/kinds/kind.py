"""What differs between native index kinds: all that is asked about one, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import DisagreementError
from faiss_pqvae.native.kinds import plain
from faiss_pqvae.native.reader import Header, LayoutError, Reader
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

Found = tuple[FloatArray, IdArray]
Reconstructed = tuple[FloatArray, IdArray, FloatArray]
Coded = tuple[FloatArray, IdArray, CodeArray]


class Quantizer(Protocol):
    """How codebooks get into an index and out of it, see `product` and `additive`."""

    def check_sizes(self, index: Any, codebooks: Codebooks) -> None:
        """Refuses codebooks that are not of the index's shape: ValueError."""
        ...

    def write(self, index: Any, codebooks: Codebooks) -> None:
        """Copies codebooks of the right shape into the index, which is trained by them."""
        ...

    def read(self, index: Any) -> Codebooks:
        """The codebooks, a copy; ValueError where the parts of the index do not fit together."""
        ...

    def prepare(self, index: Any) -> None:
        """Computes what FAISS derives from the codebooks, and keeps them in `train`."""
        ...


class Parameters(NamedTuple):
    """Search parameters of a kind: their class, and the names of what is in them."""

    type: Any = faiss.SearchParameters
    names: tuple[str, ...] = ()


class Contents(NamedTuple):
    """What an index holds, in its order: list after list where it has lists.

    Attributes:
        codes: (n, code_size) uint8.
        keys: (n,) int64, what the index itself calls them.
        list_sizes: (nlist,) int64, of an inverted file.
    """

    codes: CodeArray
    keys: IdArray
    list_sizes: IdArray | None = None


@dataclass
class Request:
    """What a search is asked for.

    Attributes:
        z: (n, d) float32 latents.
        k: results of each.
        sdc: quantize the queries first.
        params: the caller's faiss.SearchParameters of the kind, or None.
        sel: a selector of keys, or None.
        own_params: gives the same parameters for the native index, their selector over keys.
        quantize: gives every latent's own codewords.
        scan: gives the exact scan over an index's codes, of which the index's own is kept.
    """

    z: FloatArray
    k: int
    sdc: bool
    params: Any
    sel: Any
    own_params: Callable[[], Any]
    quantize: Callable[[FloatArray], FloatArray]
    scan: Callable[[Any], Any]

    @cached_property
    def quantized(self) -> FloatArray:
        """The latents' own codewords."""
        return self.quantize(self.z)


def _in_no_bundle(file: Reader, header: Header) -> None:
    raise LayoutError("expected a kind of index that bundles hold")


def _unknown(bare: Any, check_inner: Callable[[Any], None]) -> None:
    raise DisagreementError(f"expected an index of codes, got {type(bare).__name__}")


def _contents(bare: Any) -> Contents:
    return Contents(*plain.contents(bare))


def _parameters(params: Any) -> Parameters:
    return Parameters()


@dataclass(frozen=True)
class Kind:
    """A native index kind: values, and functions of such an index without its IDMap (`bare`).

    The defaults are those of an index that keeps flat codes by place. A new kind is a file with a
    `KIND` of its own, and a line in the table of `kinds`.

    Attributes:
        name: of FAISS's class.
        quantizer: how codebooks get in and out.
        stores: whether `Store` takes it; others take codebooks only.
        scanned: whether it is searched by `Scan`, which is then what a search is called.
        has_lists: whether vectors lie in inverted lists, under keys of their own.
        grows_only: why it cannot lose vectors or be merged; "" where it can.
        trains_coarse: whether more than codebooks has to be trained.
        check: refuses another state than the one that is built on, with a ValueError.
        search: D (n, k) and keys (n, k) for a `Request`.
        exact: an index with the same codes whose `range_search` is right.
        search_and_reconstruct: D, keys and latents of `(bare, z, k, native parameters)`, where an
            index knows while it searches; None elsewhere.
        search_and_return_codes: likewise codes (n, k, code_size).
        quantize: every latent's own codewords (n, d).
        check_keys: refuses keys (n,) that cannot be there, with a ValueError.
        reconstruct: latents (n, d) of keys (n,); ValueError where there is no such key.
        codes_at: codes (n, code_size) of keys (n,), as `encode` gives them; None where it cannot.
        code_size: bytes of a code, what names its inverted list included.
        encode: codes (n, code_size) of latents (n, d).
        decode: latents of codes.
        check_codes: refuses codes of no inverted list, with a ValueError.
        add: `(index, batches, ids)` stores latents, in an IDMap or alone.
        add_codes: `(index, bare, codes, ids)` likewise, codes.
        mark: what `roll_back` wants to know.
        roll_back: `(bare, marked)` forgets what was added since.
        changing: around changes that something derived from the vectors does not follow.
        set_aside: hides that for a moment, from a check of FAISS's.
        tidy: what FAISS forgets after it has taken vectors out.
        parameters: the search parameters that it wants, for a caller's.
        settings: the object that has those settings.
        contents: what it holds.
        fill: puts contents into an empty index, `ntotal` excepted.
        empty: an untrained index of the same sizes; None where contents are not written anew.
        file: FAISS's four characters for it; "" where bundles hold none.
        layout: `(reader, header)` follows its bytes in a file.
        agrees: `(bare, check_inner)` refuses parts that do not fit together, with a
            DisagreementError; an index within is for `check_inner`.
        maps: whether FAISS can leave its codes in a file.
        is_mapped: whether they are there.
        renew: makes anew what a file says beside the contents.
    """

    name: str
    quantizer: Quantizer
    stores: bool = True
    scanned: bool = False
    has_lists: bool = False
    grows_only: str = ""
    trains_coarse: bool = False
    check: Callable[[Any], None] = plain.nothing
    search: Callable[[Any, Request], Found] = plain.search
    exact: Callable[[Any], Any] = plain.itself
    search_and_reconstruct: Callable[[Any, FloatArray, int, Any], Reconstructed] | None = None
    search_and_return_codes: Callable[[Any, FloatArray, int, Any], Coded] | None = None
    quantize: Callable[[Any, FloatArray], FloatArray] = plain.quantize
    check_keys: Callable[[Any, IdArray], None] = plain.check_places
    reconstruct: Callable[[Any, IdArray], FloatArray] = plain.reconstruct
    codes_at: Callable[[Any, IdArray], CodeArray] | None = None
    code_size: Callable[[Any], int] = plain.code_size
    encode: Callable[[Any, FloatArray], CodeArray] = plain.encode
    decode: Callable[[Any, CodeArray], FloatArray] = plain.decode
    check_codes: Callable[[Any, CodeArray], None] = plain.nothing
    add: Callable[[Any, Iterable[FloatArray], IdArray | None], None] = plain.add
    add_codes: Callable[[Any, Any, CodeArray, IdArray | None], None] = plain.add_codes
    mark: Callable[[Any], Any] = plain.mark
    roll_back: Callable[[Any, Any], None] = plain.roll_back
    changing: Callable[[Any], AbstractContextManager[None]] = plain.changing
    set_aside: Callable[[Any], AbstractContextManager[None]] = plain.changing
    tidy: Callable[[Any], None] = plain.nothing
    parameters: Callable[[Any], Parameters] = _parameters
    settings: Callable[[Any], Any] = plain.itself
    contents: Callable[[Any], Contents] = _contents
    fill: Callable[[Any, Contents], None] = plain.fill
    empty: Callable[[Any], Any] | None = plain.empty
    file: str = ""
    layout: Callable[[Reader, Header], None] = _in_no_bundle
    agrees: Callable[[Any, Callable[[Any], None]], None] = _unknown
    maps: bool = True
    is_mapped: Callable[[Any], bool] = plain.is_mapped
    renew: Callable[[Any], None] = plain.renew


# By the name of FAISS's class, exact: a subclass holds what we do not know.
KINDS: dict[str, Kind] = {}


def listed(kind: Kind) -> Kind:
    """Puts a kind into the table."""
    assert kind.name not in KINDS, kind.name
    KINDS[kind.name] = kind
    return kind
