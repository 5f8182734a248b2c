"""An index, what is in its IDMap, and the kind of that."""

from __future__ import annotations

from typing import Any, NamedTuple

from faiss_pqvae.native.ids import check_given_ids, in_id_map
from faiss_pqvae.native.kinds import KINDS, kind_of
from faiss_pqvae.native.kinds.kind import Kind
from faiss_pqvae.native.walk import levels


class Held(NamedTuple):
    """An index that stores.

    Attributes:
        index: as it was given, by its own class.
        bare: the same without its IDMap.
        kind: of that.
    """

    index: Any
    bare: Any
    kind: Kind

    @classmethod
    def of(cls, index: Any) -> Held:
        """Looks at an index of one of the `KINDS` that store, alone or in an IDMap or IDMap2.

        Raises:
            TypeError: any other index.
            ValueError: a residual quantizer that `new_residual_index` does not make; a vector with
                the id -1, where it is in memory.
        """
        found = levels(index)
        index, bare = found[0], found[-1]
        kind = kind_of(bare)
        if not kind.stores:
            known = ", ".join(kind.name for kind in KINDS.values() if kind.stores)
            raise TypeError(f"expected one of {known}, alone or in an IDMap, got {kind.name}")
        held = cls(index, bare, kind)
        between = found[held.in_id_map : -1]
        if between:
            raise TypeError(
                f"expected the {kind.name} alone or in an IDMap, got it inside "
                f"{type(between[0]).__name__}"
            )
        kind.check(bare)
        # A file that is mapped is not read as a whole for this, nor are lists that are empty.
        if bare.ntotal and not kind.is_mapped(bare):
            check_given_ids(index)
        return held

    @property
    def in_id_map(self) -> bool:
        """Whether there is an IDMap."""
        return in_id_map(self.index)
