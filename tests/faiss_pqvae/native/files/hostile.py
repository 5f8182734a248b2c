"""Reads mutated bundles, in a process of its own that must survive them all.

    python tests/faiss_pqvae/native/files/hostile.py FIRST LAST

tries the mutations of these numbers; `test_hostile_files.py` runs it. Every mutation follows from
its number alone. A line for each, written before it is tried; the last line says what came of all.
"""

import collections
import copy
import faulthandler
import hashlib
import json
import os
import resource
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from faiss_pqvae import PQVAE, LatentIndex, ModelConfig, index_factory, read_index, write_index
from faiss_pqvae.index.items import Items
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.layout import FILES, LAYOUTS
from faiss_pqvae.native.reader import Reader
from faiss_pqvae.native.walk import codebook_index

D = 8
N = 12
SECONDS = 20  # that one mutation may take
BYTES = 300 * 2**20  # of memory that it may take
KINDS = [
    "PQVAE4x4",
    "PQVAE2x8",
    "PQVAE4x3",
    "PQVAE3x10",
    "PQVAE4x4fs",
    "IVF4,PQVAE4x4",
    "IVF4,PQVAE4x6",
    "residual IVF4,PQVAE4x4",
    "direct IVF4,PQVAE4x4",
    "IVF4,PQVAE3x4fs",
    "residual IVF4,PQVAE4x4fs",
    "IVF4_HNSW4,PQVAE4x4",
    "HNSW4,PQVAE4x4",
    "ip HNSW4,PQVAE4x4",
    "empty HNSW4,PQVAE4x4",
    "empty PQVAE4x4fs",
    "empty IVF4,PQVAE4x4",
    "IDMap2,PQVAE4x4",
    "IDMap,HNSW4,PQVAE4x4",
    "IDMap2,IVF4,PQVAE4x4",
    "IDMap2,IVF4,PQVAE4x4fs",
    "ip IVF4,PQVAE4x4",
    "L2norm,PCA6,PQVAE3x4",
    "PCAWR6,PQVAE3x4",
    "ITQ6,PQVAE3x4",
    "RR8,PQVAE4x4",
    "OPQ2_6,PQVAE3x4",
    "Pad16,PQVAE4x4",
    "HR,PQVAE4x4",
    "PQVAE4x4,RFlat",
    "HNSW4,PQVAE4x4,Refine(SQ8)",
    "IVF4,PQVAE4x4,RFlat",
    "IDMap2,IVF4,PQVAE4x4,Refine(SQfp16)",
    "PQVAE4x4,Refine(PQ4x4np)",
    "IVF4,PQVAE4x4,RDecoder",
    "L2norm,IVF4,PQVAE4x4,Refine(SQ8)",
    "dpq DPQ3x4",
    "dpq IDMap2,DPQ2x8",
    "named PQVAE4x4",
    "named IDMap2,PQVAE4x4",
]

Files = dict[str, bytes]
REFUSALS = (ValueError, OSError)


# -- bundles, in memory


def make_index(kind: str) -> LatentIndex:
    """An index of a kind, with items in it, whose encoder was not trained."""
    *words, description = kind.split(" ")
    metric = faiss.METRIC_INNER_PRODUCT if {"ip", "dpq"} & {*words} else faiss.METRIC_L2
    config = ModelConfig(encoder="linear", dsub=2, normalize_latents=False, width=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        index = index_factory(D, description, metric, model=config)

    @torch.no_grad()
    def fit(model: PQVAE, x: Any, **options: Any) -> list[dict[str, Any]]:
        rng = np.random.default_rng(0)
        codewords = model.quantizer.codewords
        codewords.copy_(torch.from_numpy(rng.standard_normal(codewords.shape, dtype=np.float32)))
        model.fitted.fill_(True)
        return []

    fit.check, fit.takes_coarse = lambda n, **given: {}, True
    index.fit = fit
    if "IVF" in description:
        ivf = codebook_index(index.faiss_index)
        ivf.by_residual = "residual" in words
    x = np.random.default_rng(0).standard_normal((300, D), dtype=np.float32)
    index.train(x, np.arange(300) % 3 if "dpq" in words else None, progress=False)
    if "empty" not in words:
        if "IDMap" in description:
            index.add_with_ids(x[:N], np.arange(N) * 2**40 + 7)
        else:
            index.add(x[:N])
    if "direct" in words:
        index.faiss_index.make_direct_map()
    if "named" in words:
        names = Items.of_parts([("a.npy", 5), ("b.npy", 3)], "/x").under(stored_ids(index)[:8])
        index.items = names.joined(Items.of_names(["own"], stored_ids(index)[9:10]))
    return index


def read_files(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def make_bundle(kind: str) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write_index(make_index(kind), folder)
        return read_files(Path(folder))


def parts(files: Files) -> dict[str, str]:
    """File names by role."""
    named = json.loads(files["config.json"])["files"]
    return {role: file["name"] for role, file in named.items()}


def sealed(files: Files, config: dict[str, Any]) -> Files:
    """The files with every hash made right, that of the configuration included."""
    for file in config.get("files", {}).values():
        file["sha256"] = hashlib.sha256(files[file["name"]]).hexdigest()
    return seal_config(files, config)


def seal_config(files: Files, config: dict[str, Any]) -> Files:
    config.pop("sha256", None)
    config["sha256"] = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return {**files, "config.json": json.dumps(config).encode()}


# -- mutations


class Field(NamedTuple):
    """A number of a native file: `form` as struct calls it, `count` of them in a row."""

    at: int
    form: str
    count: int = 1
    counter: bool = False


class Recorder(Reader):
    """Follows a file, and remembers where its numbers lie."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, LAYOUTS)
        self.fields: list[Field] = []

    def take(self, form: str) -> Any:
        at = self._at
        values = super().take(form)
        for each in form:
            self.fields.append(Field(at, each))
            at += struct.calcsize(f"={each}")
        return values

    def vector(self, width: int) -> int:
        counter = Field(self._at, "Q", counter=True)
        n = super().vector(width)
        self.fields[-1] = counter
        if n:
            form, each = ("q", 8) if width == 16 else ({1: "B", 4: "i", 8: "q"}[width], width)
            self.fields.append(Field(self._at - n * width, form, n * width // each))
        return n

    def kind(self, allowed: Any) -> str:
        self.fields.append(Field(self._at, "4s"))
        return super().kind(allowed)


WHOLE = [0, 1, -1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 64, 100, 255, 256, 1000, 4096, 65536, 10**6]
HUGE = [2**30, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**48, 2**61, 2**62, 2**63 - 1, -(2**63)]
FLOATS = [float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 1e-45, 0.0, -1.0, 1e9]
FOURS = sorted({kind for kinds in FILES.values() for kind in kinds} | {
    "IHNf", "IxFI", "IxF2", "IxFl", "IxSQ", "ilar", "ilbl", "ilod", "il00", "full", "sprs", "LTra",
    "rrot", "Pcam", "PCAm", "PcAm", "Viqm", "Viqt", "VNrm", "VCnt", "RmDT", "HRot", "IxRq", "IxLS",
    "IwFl", "INSf", "IxRF", "IxLa", "null", "IwSh", "IHNc", "IHN2", "Imiq", "ilpn", "Ixrr", "IxHe",
})  # fmt: skip


def number(rng: np.random.Generator, old: int, form: str) -> int:
    choice = rng.integers(5)
    if choice == 0:
        return old + int(rng.choice([-2, -1, 1, 2]))
    if choice == 1:
        return int(rng.choice([old * 2, old // 2, old * 3, -old]))
    if choice == 2:
        return HUGE[rng.integers(len(HUGE))]
    if choice == 3:
        return int(rng.integers(-20, 20))
    return WHOLE[rng.integers(len(WHOLE))]


def mutate_field(rng: np.random.Generator, content: bytearray, field: Field) -> str:
    size = struct.calcsize(f"={field.form}")
    place = int(rng.integers(field.count)) if field.count > 1 else 0
    at = field.at + place * size
    if field.form == "4s":
        new = FOURS[rng.integers(len(FOURS))].encode()
    elif field.form == "B" and field.count > 1:
        new = bytes([int(rng.integers(256))])
    elif field.form == "f" or (size == 4 and field.count > 1 and rng.integers(2)):
        new = struct.pack("=f", FLOATS[rng.integers(len(FLOATS))])
    elif field.form == "q" and field.count > 1 and not rng.integers(5):
        new = struct.pack("=d", FLOATS[rng.integers(len(FLOATS))])
    else:
        old = int.from_bytes(content[at : at + size], sys.byteorder)
        new = (number(rng, old, field.form) % 256**size).to_bytes(size, sys.byteorder)
    content[at : at + size] = new
    return f"{field.form} at {at} ({place} of {field.count}) = {new.hex()}"


def resize_vector(rng: np.random.Generator, content: bytearray, fields: list[Field]) -> str:
    """Makes a vector longer or shorter, and says so in the file."""
    at = [i for i, field in enumerate(fields) if field.counter]
    i = at[rng.integers(len(at))]
    values = fields[i + 1] if i + 1 < len(fields) and fields[i + 1].count > 1 else None
    width = struct.calcsize(f"={values.form}") if values else int(rng.choice([1, 4, 8]))
    start = fields[i].at + 8
    n = struct.unpack_from("=Q", content, fields[i].at)[0]
    change = int(rng.choice([-1, 1, 2, 16, -n, n, 1000]))
    change = max(change, -n)
    if change < 0:
        del content[start : start - change * width]
    else:
        content[start:start] = bytes(rng.integers(0, 256, change * width, dtype=np.uint8))
    struct.pack_into("=Q", content, fields[i].at, n + change)
    return f"vector at {fields[i].at} grows by {change}"


def mutate_native(rng: np.random.Generator, content: bytes, role: str) -> tuple[bytes, str]:
    recorder = Recorder(content)
    recorder.index(FILES[role])
    damaged, fields = bytearray(content), recorder.fields
    if not rng.integers(6):
        what = resize_vector(rng, damaged, fields)
        return bytes(damaged), what
    # Numbers that stand alone more often than one of many, codes hardly ever.
    weights = np.array([0.2 if f.form == "B" else 1 if f.count > 1 else 2 for f in fields])
    chosen = rng.choice(len(fields), rng.choice([1, 1, 1, 2, 3]), p=weights / weights.sum())
    what = "; ".join([mutate_field(rng, damaged, fields[i]) for i in chosen])
    return bytes(damaged), what


def mutate_bytes(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    """Without any idea of what the bytes mean."""
    damaged = bytearray(content)
    at = int(rng.integers(len(content)))
    how = ["truncated", "flipped", "replaced", "emptied", "lengthened", "moved", "zeroed"]
    what = how[rng.integers(len(how))]
    if what == "truncated":
        del damaged[at:]
    elif what == "flipped":
        damaged[at] ^= 1 << int(rng.integers(8))
    elif what == "replaced":
        damaged[at] = (damaged[at] + int(rng.integers(1, 256))) % 256
    elif what == "emptied":
        damaged.clear()
    elif what == "lengthened":
        damaged += bytes(int(rng.integers(1, 64)))
    elif what == "moved":
        damaged[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8))
    else:
        damaged[at : at + 8] = bytes(len(damaged[at : at + 8]))
    return bytes(damaged), f"{what} at {at}"


def mutate_weights(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    (size,) = struct.unpack_from("=Q", content)
    if rng.integers(2):
        header = json.loads(content[8 : 8 + size])
        name = sorted(set(header) - {"__metadata__"})[
            rng.integers(len(header) - ("__metadata__" in header))
        ]
        key = ["dtype", "shape", "data_offsets"][rng.integers(3)]
        value: Any = ["F64", "I32", "BOOL", "BF16", "U8", "F8_E4M3"][rng.integers(6)]
        if key != "dtype":
            value = [int(number(rng, v, "q")) for v in header[name][key]] or [1]
        header[name][key] = value
        new = json.dumps(header).encode()
        return struct.pack("=Q", len(new)) + new + content[8 + size :], f"{name}: {key} = {value}"
    damaged = bytearray(content)
    at = 8 + size + 4 * int(rng.integers((len(content) - 8 - size) // 4))
    struct.pack_into("=f", damaged, at, FLOATS[rng.integers(len(FLOATS))])
    return bytes(damaged), f"a weight at {at} = {struct.unpack_from('=f', damaged, at)[0]}"


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 10**6, 10**12, 2**63, 10**30, 0.5, 1.5, float("nan"),
    float("inf"), -1.0, 1e300, "", "x", "l2", "inner_product", "sdc", "adc", "linear", "conv",
    "mlp", "decoder", "stored", "gradient", "\ud800", "\U0001f600", [], [1], [8, 8],
    [1, 2**40, 2**40], {}, {"name": "x"}, "config.json", "../x", [[[]]], [2**62], [10**9], 10**9,
    12, 16,
]  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        found += leaves(child, (*path, key))
    return found


def mutate_config(rng: np.random.Generator, config: dict[str, Any]) -> str:
    paths = [path for path in leaves(config) if path[0] not in ("sha256", "versions")]
    *outer, last = paths[rng.integers(len(paths))]
    place: Any = config
    for key in outer:
        place = place[key]
    if not rng.integers(5) and isinstance(place, dict):
        del place[last]
        return f"config without {(*outer, last)}"
    place[last] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return f"config {(*outer, last)} = {place[last]!r}"


class Mutation(NamedTuple):
    kind: str
    attacker: str
    what: str
    files: Files


def mutation(seed: int, bundles: Callable[[str], Files]) -> Mutation:
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    files = dict(bundles(kind))
    other = bundles(KINDS[rng.integers(len(KINDS))])
    if rng.integers(4) == 0:
        return Mutation(kind, "careless", *careless(rng, files, other))
    return Mutation(kind, "careful", *careful(rng, files, other))


def careless(rng: np.random.Generator, files: Files, other: Files) -> tuple[str, Files]:
    """Whoever leaves the hashes as they were."""
    names = sorted(files)
    name = names[rng.integers(len(names))]
    choice = rng.integers(6)
    if choice == 0:
        theirs = sorted(other)[rng.integers(len(other))]
        return f"{name} is {theirs} of another bundle", {**files, name: other[theirs]}
    if choice == 1:
        second = names[rng.integers(len(names))]
        return f"{name} and {second} swapped", {**files, name: files[second], second: files[name]}
    if choice == 2:
        return f"{name} is missing", {each: files[each] for each in files if each != name}
    content, what = mutate_bytes(rng, files[name])
    return f"{name} {what}", {**files, name: content}


def careful(rng: np.random.Generator, files: Files, other: Files) -> tuple[str, Files]:
    """Whoever makes all hashes right again."""
    config = json.loads(files["config.json"])
    roles = parts(files)
    choice = rng.integers(20)
    if choice < 3:
        what = mutate_config(rng, config)
        return what, seal_config(files, config)
    role = sorted(roles)[rng.integers(len(roles))]
    if choice < 14 and role == "model":
        role = "index"
    name = roles[role]
    if choice == 3:
        theirs = parts(other)
        if role in theirs:
            files[name] = other[theirs[role]]
        return f"{role} of another bundle", sealed(files, config)
    if choice == 4:
        files[name], what = mutate_bytes(rng, files[name])
    elif role in ("model", "items"):
        files[name], what = mutate_weights(rng, files[name])
    else:
        files[name], what = mutate_native(rng, files[name], role)
    return f"{role} {what}", sealed(files, config)


# -- what an index that was read has to stand


def check(condition: Any, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def stored_ids(index: LatentIndex) -> np.ndarray:
    native = index.faiss_index
    if isinstance(native, faiss.IndexIDMap):
        return faiss.vector_to_array(native.id_map)
    if not isinstance(native, faiss.IndexIVF):
        return np.arange(native.ntotal)
    lists = native.invlists
    sizes = [lists.list_size(i) for i in range(native.nlist)]
    ids = [faiss.rev_swig_ptr(lists.get_ids(i), n) for i, n in enumerate(sizes) if n]
    return np.concatenate([np.empty(0, np.int64), *ids])


def exercise(index: LatentIndex) -> None:
    """Everything that reads; and, of an index in memory, everything that writes."""
    q = np.random.default_rng(1).standard_normal((3, index.d), dtype=np.float32)
    look(index, q)
    if index.read_only:
        return
    new = np.array([5, 2**50])
    n = index.ntotal
    if isinstance(index.faiss_index, faiss.IndexIDMap):
        index.add_with_ids(q[:2], new)
    else:
        index.add(q[:2])
    check(index.ntotal == n + 2, "two items more")
    look(index, q)
    if (
        "HNSW"
        not in type(
            faiss.downcast_index(getattr(index.faiss_index, "index", index.faiss_index))
        ).__name__
    ):
        index.remove_ids(stored_ids(index)[:1])
        look(index, q)
    index.reset()
    look(index, q)


def look(index: LatentIndex, q: np.ndarray) -> None:
    ids, n = stored_ids(index), index.ntotal
    check(len(ids) == n, "as many ids as items")
    for k in (1, n + 3):
        D_, I_ = index.search(q, k)
        check(D_.shape == I_.shape == (3, k), "shape of the results")
        check(np.isin(I_[I_ != -1], ids).all(), f"ids that are stored: {I_} {ids}")
    if index.refiner is None:
        lims, D_, I_ = index.range_search(q, 5.0)
        check(lims[0] == 0 and lims[-1] == len(D_) == len(I_), "limits")
        check((np.diff(lims.astype(np.int64)) >= 0).all(), "ascending limits")
        check(np.isin(I_, ids).all(), "ids within the range that are stored")
    R = index.search_and_reconstruct(q, 2)[2]
    check(R.shape == (3, 2, index.faiss_index.d), "shape of the reconstructions")
    if n:
        index.reconstruct_batch(ids[:3])
    index.sa_decode(index.sa_encode(q))
    if index.items is not None:
        check(len(index.items) <= n, "no more names than items")
        check(index.items.names(I_).shape == I_.shape, "a name or none for every result")


def fingerprint(index: LatentIndex) -> tuple[Any, ...]:
    q = np.random.default_rng(1).standard_normal((3, index.d), dtype=np.float32)
    D_, I_ = index.search(q, 4)
    described = index.ntotal, index.search_type, index.k_factor, index.description
    return (D_.tobytes(), I_.tobytes(), *described)


def try_one(mutated: Mutation, folder: Path, mmap: bool, whole: set[tuple[Any, ...]]) -> str:
    """What came of it: "refused", "same", "read", or "overflowing" weights."""
    for path in folder.iterdir():
        path.unlink()
    for name, content in mutated.files.items():
        (folder / name).write_bytes(content)
    try:
        index = read_index(folder, mmap=mmap)
    except REFUSALS as error:
        check(
            "bad_alloc" not in str(error) and not isinstance(error.__cause__, MemoryError),
            f"no such allocation: {error}",
        )
        return "refused"
    if mutated.attacker == "careless":
        # The same, or another bundle's whose other files are the same.
        check(fingerprint(index) in whole, "the same results")
        return "same"
    try:
        exercise(index)
    except ValueError as error:
        check("latents below" in str(error), str(error))
        return "overflowing"
    return "read"


def limit_memory() -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(first: int, last: int) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    made: dict[str, Files] = {}
    whole: set[tuple[Any, ...]] = set()

    def bundles(kind: str) -> Files:
        if kind not in made:
            made[kind] = make_bundle(kind)
        return made[kind]

    outcomes: collections.Counter[str] = collections.Counter()
    failures = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "bundle"
        folder.mkdir()
        for kind in KINDS:
            for name, content in bundles(kind).items():
                (folder / name).write_bytes(content)
            index = read_index(folder)
            whole.add(fingerprint(index))
            exercise(index)
            for path in folder.iterdir():
                path.unlink()
        limit_memory()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(first, last):
            mutated = mutation(seed, bundles)
            story = f"{seed}: {mutated.attacker}, {mutated.kind}: {mutated.what}"
            # Should this process die, its last line tells of what.
            os.write(1, f"{story}\n".encode(errors="backslashreplace"))
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            mmap = seed % 4 == 3 and "fs" not in mutated.kind
            try:
                outcome = try_one(mutated, folder, mmap, whole)
            except Exception as error:
                outcome = "failed"
                failures.append(f"{story}: {type(error).__name__}: {error}")
            faulthandler.cancel_dump_traceback_later()
            outcomes[f"{mutated.attacker}, {outcome}"] += 1
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if (now - peak) * 1024 > BYTES:
                failures.append(f"{story}: {(now - peak) // 1024} MiB")
            peak = now
    print(json.dumps({"outcomes": outcomes, "failures": failures}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
