"""Tensors of the PostgreSQL extension gpuagent as NumPy arrays, and state dicts, with psycopg 3.

    import gpuagent, psycopg

    conn = psycopg.connect("dbname=app")
    gpuagent.register(conn)
    conn.execute("SELECT gpuagent.store_agent(%s, %s)", ("run7/0001", np.zeros(256, np.float32)))
    cur = conn.cursor(binary=True).execute("SELECT state FROM gpuagent.agent WHERE id = %s", ("run7/0001",))
    state = cur.fetchone()[0]  # a read-only np.ndarray over the bytes that came from the server

Read with ``binary=True``: text is correct too, but costs more than twice the time.

Parameters carry no type of their own: the server takes it from the column or the argument they are used for. Where
there is none (``SELECT %s``), write a cast or use ``Tensor(array, type="embedding")``.

Nothing here depends on the state of a session, so connections may come from a pooler.
"""

from __future__ import annotations

import binascii
import copy
import hashlib
import json
import re
import struct
import warnings
from fractions import Fraction
from typing import Any, Iterable, Iterator, Mapping, NamedTuple

import numpy as np
import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.rows import tuple_row
from psycopg.types import TypeInfo

__all__ = [
    "HandleError",
    "Mapped",
    "StaleHandle",
    "Tensor",
    "Torn",
    "load_state_dict",
    "map_swarm",
    "open_handle",
    "register",
    "save_state_dict",
    "store_swarm",
]

TYPES = ("embedding", "agent_state", "swarm_tensor")

# ---- dtypes ----


class _DType(NamedTuple):
    code: int  # in the wire format
    name: str  # as in safetensors
    bits: int  # of an element
    storage: np.dtype  # of the array that holds the elements
    native: bool  # NumPy computes with it; else the array holds raw bits
    alias: str  # name in torch and ml_dtypes, for those that are not native


_DTYPES = tuple(
    _DType(code, name, bits, np.dtype(storage), not alias, alias)
    for code, (name, bits, storage, alias) in enumerate(
        (
            ("F32", 32, "<f4", ""),
            ("F16", 16, "<f2", ""),
            ("BF16", 16, "<u2", "bfloat16"),
            ("F64", 64, "<f8", ""),
            ("BOOL", 8, "?", ""),
            ("U8", 8, "u1", ""),
            ("I8", 8, "i1", ""),
            ("U16", 16, "<u2", ""),
            ("I16", 16, "<i2", ""),
            ("U32", 32, "<u4", ""),
            ("I32", 32, "<i4", ""),
            ("U64", 64, "<u8", ""),
            ("I64", 64, "<i8", ""),
            ("C64", 64, "<c8", ""),
            ("F8_E5M2", 8, "u1", "float8_e5m2"),
            ("F8_E4M3", 8, "u1", "float8_e4m3fn"),
            ("F8_E8M0", 8, "u1", "float8_e8m0fnu"),
            ("F8_E4M3FNUZ", 8, "u1", "float8_e4m3fnuz"),
            ("F8_E5M2FNUZ", 8, "u1", "float8_e5m2fnuz"),
            ("F4", 4, "u1", "packed"),
            ("F6_E2M3", 6, "u1", "packed"),
            ("F6_E3M2", 6, "u1", "packed"),
        ),
        start=1,
    )
)
_BY_CODE = {d.code: d for d in _DTYPES}
_BY_NAME = {d.name: d for d in _DTYPES}
_BY_KIND = {(d.storage.kind, d.storage.itemsize): d for d in _DTYPES if d.native}
_BY_ALIAS = {d.alias: d for d in _DTYPES if d.alias != "packed"}


def _dtype_named(name: str) -> _DType:
    try:
        return _BY_NAME[name.upper()]
    except KeyError:
        raise ValueError(f"unknown dtype {name!r}; known are {', '.join(_BY_NAME)}") from None


def _canonical(array: np.ndarray) -> tuple[_DType, np.ndarray]:
    """The dtype, and the elements as a C-contiguous little-endian array: the same one where it already is that."""
    if isinstance(array, np.ma.MaskedArray):
        raise psycopg.DataError("a masked array has no tensor form; use filled()")
    dtype = _BY_KIND.get((array.dtype.kind, array.dtype.itemsize)) or _BY_ALIAS.get(array.dtype.name)
    if dtype is None:
        raise psycopg.DataError(f"no tensor dtype stands for NumPy's {array.dtype}; convert with astype()")
    if not dtype.native:
        array = array.view(dtype.storage)
    return dtype, np.asarray(array, dtype=dtype.storage, order="C")


def _from_torch(tensor: Any) -> tuple[_DType, np.ndarray]:
    """As _canonical, for a tensor of torch on any device."""
    import torch

    dtype = _BY_ALIAS.get(str(tensor.dtype).rpartition(".")[2])
    if dtype is None:
        return _canonical(tensor.numpy(force=True))
    same_width = torch.int16 if dtype.bits == 16 else torch.uint8
    return dtype, tensor.detach().cpu().contiguous().view(same_width).numpy().view(dtype.storage)


def _is_torch(value: Any) -> bool:
    return any(c.__module__ == "torch" and c.__name__ == "Tensor" for c in type(value).__mro__)


class Tensor:
    """A tensor of any dtype of the extension: what a np.ndarray cannot say (bfloat16, float8), or says untyped.

    value
        np.ndarray, torch.Tensor, another Tensor, or nested lists of numbers.
    dtype
        Name as in safetensors, such as "BF16". Needed where NumPy lacks the dtype and value is an array with the raw
        bits: uint16 for BF16, uint8 for the 8-bit floats and for the packed ones (F4, F6_E2M3, F6_E3M2). For lists
        it is the dtype to make. It never converts an array; that is astype().
    shape
        Needed for packed dtypes, where it counts elements and value holds bytes.
    type
        "embedding", "agent_state" or "swarm_tensor", for queries from which the server cannot tell the type
        (``SELECT %s``) and for lists passed with ``%b``.

    Attributes: data (the array; raw bits for what NumPy lacks), dtype, shape, type.
    """

    __slots__ = ("data", "dtype", "shape", "type")

    def __init__(
        self, value: Any, dtype: str | None = None, shape: Iterable[int] | None = None, *, type: str | None = None
    ):
        if type is not None and type not in TYPES:
            raise ValueError(f"unknown type {type!r}; known are {', '.join(TYPES)}")
        wanted = _dtype_named(dtype) if dtype else None
        if isinstance(value, Tensor):
            found, data = _BY_NAME[value.dtype], value.data
            shape = value.shape if shape is None else shape
            type = type or value.type
        elif _is_torch(value):
            found, data = _from_torch(value)
        elif isinstance(value, np.ndarray) or hasattr(value, "__array__"):
            found, data = _canonical(value if isinstance(value, np.ndarray) else np.asarray(value))
        else:
            found, data = _canonical(np.asarray(value, wanted.storage if wanted and wanted.native else None))
        wanted = wanted or found
        if wanted is not found and (wanted.native or not found.native or wanted.storage != data.dtype):
            raise ValueError(f"an array of {found.name} is not the raw bits of {wanted.name}; convert with astype()")
        self.dtype: str = wanted.name
        self.type: str | None = type
        if wanted.alias == "packed":
            if shape is None:
                raise ValueError(f"{wanted.name} is packed and needs a shape")
            self.shape: tuple[int, ...] = tuple(shape)
            self.data: np.ndarray = data.reshape(-1)
            if self.data.size * 8 != _count(self.shape) * wanted.bits:
                raise ValueError(f"{self.data.size} bytes are not a {wanted.name} tensor of shape {self.shape}")
        else:
            self.data = data if shape is None else data.reshape(tuple(shape))
            self.shape = self.data.shape

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def numpy(self) -> np.ndarray:
        """The values as an array; BF16 widened to float32, which is exact. TypeError for the narrower floats."""
        if _BY_NAME[self.dtype].native:
            return self.data
        if self.dtype != "BF16":
            raise TypeError(f"NumPy has no dtype for {self.dtype}; .data has the raw bits")
        wide = self.data.astype("<u4")
        wide <<= np.uint32(16)
        return wide.view("<f4")

    def torch(self) -> Any:
        """A tensor of torch with the same dtype; it shares the memory of .data where that may be written to."""
        import torch

        dtype = _BY_NAME[self.dtype]
        data = self.data if self.data.flags.writeable else self.data.copy()
        if dtype.native:
            return torch.from_numpy(data)
        if not hasattr(torch, dtype.alias):
            raise TypeError(f"this torch has no dtype for {self.dtype}; .data has the raw bits")
        raw = torch.from_numpy(data.view("<i2" if dtype.bits == 16 else "u1"))
        return raw.view(getattr(torch, dtype.alias))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype) if copy else np.asarray(self.numpy(), dtype=dtype)

    def __eq__(self, other: object) -> bool:
        """Same dtype, shape and bits."""
        if not isinstance(other, Tensor):
            return NotImplemented
        return (self.dtype, self.shape) == (other.dtype, other.shape) and self.data.tobytes() == other.data.tobytes()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<gpuagent.Tensor {self.dtype}{list(self.shape)}>"


def _count(shape: Iterable[int]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _parts(value: Any) -> tuple[_DType, tuple[int, ...], np.ndarray]:
    """dtype, shape and elements of an array, a Tensor or a tensor of torch."""
    if isinstance(value, np.ndarray):
        dtype, data = _canonical(value)
    elif isinstance(value, Tensor):
        return _BY_NAME[value.dtype], value.shape, value.data
    else:
        dtype, data = _from_torch(value)
    return dtype, data.shape, data


# ---- wire and text formats (doc/formats.md) ----

_HEADER = struct.Struct("<2sBBB3x")
_COMPACT = re.compile(rb"([A-Za-z]\w*)\[([\d,]*)\]:(raw|zstd):")
_PREFIX = re.compile(rb"([A-Za-z]\w*):")
_LONG_TEXT = 64 * 1024
_warned_about_text = False


def _to_wire(value: Any) -> bytes:
    dtype, shape, data = _parts(value)
    header = _HEADER.pack(b"GA", 1, dtype.code, len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    return b"".join((header, data.data if data.size else b""))


def _to_text(value: Any) -> bytes:
    dtype, shape, data = _parts(value)
    dims = ",".join(map(str, shape))
    return b"%s[%s]:raw:%s" % (dtype.name.encode(), dims.encode(), binascii.b2a_base64(data.tobytes(), newline=False))


def _array_over(buffer: Any, offset: int, dtype: _DType, shape: tuple[int, ...]) -> np.ndarray | Tensor:
    """A read-only view of the elements in a buffer; a copy where they are not aligned."""
    nbytes = _count(shape) * dtype.bits // 8
    if len(buffer) - offset != nbytes:
        raise psycopg.DataError(f"{len(buffer) - offset} bytes are not a {dtype.name} tensor of shape {shape}")
    dims = (nbytes,) if dtype.alias == "packed" else shape
    array: np.ndarray = np.ndarray(dims, dtype.storage, buffer, offset)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array if dtype.native else Tensor(array, dtype.name, shape)


def _from_wire(data: Any) -> np.ndarray | Tensor:
    try:
        magic, version, code, ndim = _HEADER.unpack_from(data)
        shape = struct.unpack_from(f"<{ndim}Q", data, _HEADER.size)
    except struct.error:
        raise psycopg.DataError("a tensor came with a truncated header") from None
    if magic != b"GA" or version != 1 or code not in _BY_CODE:
        raise psycopg.DataError(f"a tensor came in format {magic!r} {version}, dtype {code}, which is not known here")
    return _array_over(data, _HEADER.size + 8 * ndim, _BY_CODE[code], shape)


def _decompress(packed: bytes, nbytes: int) -> bytes:
    try:
        from compression import zstd  # Python 3.14

        return zstd.decompress(packed)
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        raise psycopg.NotSupportedError(
            "this tensor came as compressed text, which takes the module zstandard to read;"
            " read with cursor(binary=True) or SET gpuagent.compression = off"
        ) from None
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=nbytes)


def _from_text(text: bytes) -> np.ndarray | Tensor:
    if match := _COMPACT.match(text):
        dtype = _dtype_named(match[1].decode())
        shape = tuple(int(d) for d in match[2].split(b",") if d)
        raw = binascii.a2b_base64(text[match.end() :])
        if match[3] == b"zstd":
            raw = _decompress(raw, _count(shape) * dtype.bits // 8)
            width = dtype.storage.itemsize  # plane k holds byte k of every element
            raw = np.frombuffer(raw, np.uint8).reshape(width, -1).T.tobytes()
        return _array_over(raw, 0, dtype, shape)
    match = _PREFIX.match(text)
    dtype = _dtype_named(match[1].decode()) if match else _BY_NAME["F32"]
    return _from_nested(text[match.end() if match else 0 :].decode(), dtype)


def _from_nested(text: str, dtype: _DType) -> np.ndarray | Tensor:
    """Nested lists as the server prints them, which is JSON with NaN and Infinity."""
    if dtype.storage.kind in "fc" or dtype.name == "BF16":
        wide = np.array(json.loads(text, parse_int=float), np.float64)  # "-0" must keep its sign
        if dtype.name == "F32":
            array = _round_to_f32(wide, text)
        else:
            array = _round_to_bf16(wide) if dtype.name == "BF16" else wide.astype(dtype.storage)
    else:
        array = np.array(json.loads(text), dtype.storage)
    array.flags.writeable = False
    return array if dtype.native else Tensor(array, dtype.name)


def _round_to_f32(wide: np.ndarray, text: str) -> np.ndarray:
    """float32 of decimal text that was read as float64, right also where the float64 hit the middle of two float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.asarray(wide.astype("<f4"))
        error = wide - near
        other = np.nextafter(near, np.where(error > 0, np.float32(np.inf), np.float32(-np.inf)))
        middle = (error != 0) & (error == other - wide)
    if middle.any():
        tokens = np.array(json.loads(text, parse_float=str, parse_int=str), object).reshape(wide.shape)
        for i in zip(*np.nonzero(np.atleast_1d(middle))):
            i = i if wide.ndim else ()
            exact, low = Fraction(tokens[i]), min(near[i], other[i])
            if exact != Fraction(float(wide[i])):
                near[i] = max(near[i], other[i]) if exact > Fraction(float(wide[i])) else low
    return near


def _round_to_bf16(wide: np.ndarray) -> np.ndarray:
    """Bits of the nearest BF16, ties to even: through a float32 that is rounded to odd, so that it rounds once."""
    near = np.array(wide, "<f4")
    odd = near.view("<u4")
    odd -= (np.abs(near) > np.abs(wide)).astype("<u4")
    odd |= (near != wide) & ~np.isnan(wide)
    odd += np.uint32(0x7FFF) + ((odd >> np.uint32(16)) & np.uint32(1))
    return np.asarray(odd >> np.uint32(16), "<u2")


# ---- psycopg ----


class _BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return _to_wire(obj)


class _TextDumper(Dumper):
    """For lists, ClientCursor, COPY in text and %t."""

    format = Format.TEXT

    def dump(self, obj: Any) -> bytes:
        return _to_text(obj)


class _Typed(Dumper):
    """Of Tensor, which may name its type."""

    oids: dict[str, int] = {}

    def get_key(self, obj: Tensor, format: Any) -> Any:
        return (self.cls, obj.type) if obj.type else self.cls

    def upgrade(self, obj: Tensor, format: Any) -> Dumper:
        if not obj.type:
            return self
        dumper = copy.copy(self)
        dumper.oid = self.oids[obj.type]
        return dumper


class _BinaryLoader(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> np.ndarray | Tensor:
        return _from_wire(data)


class _TextLoader(Loader):
    format = Format.TEXT

    def load(self, data: Any) -> np.ndarray | Tensor:
        global _warned_about_text
        if len(data) > _LONG_TEXT and not _warned_about_text:
            _warned_about_text = True
            warnings.warn(
                "tensors are being read as text, which takes more than twice the time: use cursor(binary=True)"
                " or execute(..., binary=True)",
                UserWarning,
                stacklevel=2,
            )
        return _from_text(bytes(data))


def _install(context: Any, infos: list[TypeInfo | None], ndarray: bool) -> None:
    adapters = context.adapters
    oids: dict[str, int] = {}
    for name, info in zip(TYPES, infos):
        if info is None:
            raise psycopg.ProgrammingError(f"type gpuagent.{name} does not exist; first CREATE EXTENSION gpuagent")
        info.regtype = f"gpuagent.{name}"
        info.register(context)
        oids[name] = info.oid
        for base in (_TextDumper, _BinaryDumper):  # by oid, for COPY with set_types() and arrays
            adapters.register_dumper(None, type(base.__name__, (base,), {"oid": info.oid}))
        for loader in (_TextLoader, _BinaryLoader):
            adapters.register_loader(info.oid, loader)
    for base in (_TextDumper, _BinaryDumper):  # the last one is what %s takes
        adapters.register_dumper(Tensor, type(base.__name__, (_Typed, base), {"oids": oids}))
        adapters.register_dumper("torch.Tensor", base)
        if ndarray:
            adapters.register_dumper(np.ndarray, base)


async def _register_async(context: Any, conn: psycopg.AsyncConnection, ndarray: bool) -> None:
    _install(context, [await TypeInfo.fetch(conn, f"gpuagent.{name}") for name in TYPES], ndarray)


def register(context: Any, ndarray: bool = True) -> Any:
    """Make a connection or a cursor send and receive the three types.

    Parameters may be np.ndarray, Tensor, torch.Tensor and lists of these; any layout and byte order, NumPy dtypes
    bool, int8 to uint64, float16 to float64 and complex64. Results are np.ndarray (read-only; ``.copy()`` to write),
    or Tensor for dtypes that NumPy lacks, and lists of them for arrays of the three types. An array from a binary
    result shares its memory, so one kept array keeps the whole result.

    ndarray=False leaves np.ndarray to another adapter, such as pgvector's register_vector; wrap what is meant for
    gpuagent in Tensor then. Where two adapters claim np.ndarray, the one that was registered last has it.

    For an asynchronous connection this gives an awaitable. In pools: ``ConnectionPool(..., configure=register)``.
    Leaves the connection's transaction as it was. ProgrammingError when the database lacks the extension.
    """
    conn = getattr(context, "connection", None)
    if isinstance(conn, psycopg.AsyncConnection):
        return _register_async(context, conn, ndarray)
    if not isinstance(conn, psycopg.Connection):
        raise TypeError("register() takes a connection or a cursor; pass register to a pool as configure=register")
    _install(context, [TypeInfo.fetch(conn, f"gpuagent.{name}") for name in TYPES], ndarray)
    return None


# ---- state dicts ----

_LEAF = 64 * 1024
_CHUNK = 1024 * 1024
_BATCH = 32 * 1024 * 1024  # bytes on their way at once


def _chunk_hash(chunk: memoryview) -> bytes:
    """Identity of a chunk in the store (doc/formats.md)."""
    digest = hashlib.sha256(b"gpuagent/chunk/1" + struct.pack("<Q", len(chunk)))
    for i in range(0, len(chunk), _LEAF):
        digest.update(hashlib.sha256(chunk[i : i + _LEAF]).digest())
    return digest.digest()


def _batches(rows: Iterable[tuple], size: Any) -> Iterator[list[tuple]]:
    """Rows in lists of about _BATCH bytes."""
    batch: list[tuple] = []
    total = 0
    for row in rows:
        batch.append(row)
        total += size(row)
        if total >= _BATCH:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _open_cursor(conn: psycopg.Connection, caller: str) -> psycopg.Cursor:
    if not isinstance(conn, psycopg.Connection):
        raise TypeError(f"{caller}() takes a psycopg.Connection")
    cur = psycopg.Cursor(conn, row_factory=tuple_row)
    register(cur)
    return cur


def _store_parts(cur: psycopg.Cursor, value: Tensor) -> bytes:
    """Puts a tensor of any size into the store, sending only the chunks that it lacks; returns the tensor's hash."""
    dtype = _BY_NAME[value.dtype]
    elements = value.data.reshape(-1)
    step = _CHUNK // elements.itemsize
    pieces = [elements[i : i + step] for i in range(0, elements.size, step)]
    hashes = [_chunk_hash(memoryview(p.view(np.uint8))) for p in pieces]
    by_hash = dict(zip(hashes, pieces))
    cur.execute("SELECT m FROM gpuagent.missing_chunks(%b) AS m", [list(by_hash)], binary=True)
    name = dtype.name if dtype.alias != "packed" else "U8"
    rows = [(Tensor(by_hash[bytes(missing)], name),) for (missing,) in cur.fetchall()]
    for batch in _batches(rows, lambda row: row[0].nbytes):
        cur.executemany("SELECT gpuagent.store_chunk(%b)", batch)
    args = [value.dtype, list(value.shape), hashes]
    return cur.execute("SELECT gpuagent.store_tensor(%s, %s::int8[], %b)", args, binary=True).fetchone()[0]


def _nbytes(value: Any) -> int:
    return value.numel() * value.element_size() if _is_torch(value) else value.nbytes


def store_swarm(
    conn: psycopg.Connection,
    swarm: str,
    value: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    expected_version: int | None = None,
) -> int:
    """Store an array of any size as a new version of a swarm, in one transaction; returns the version.

    Goes out in chunks of 1 MiB, without those that the store has: a swarm that changed in part costs its changed chunks.
    As one parameter of gpuagent.store_swarm() it would be limited to 256 MiB, and slow from some MB on.
    SerializationFailure unless the swarm is at expected_version (0: does not exist).
    """
    with _open_cursor(conn, "store_swarm") as cur, conn.transaction():
        tensor = _store_parts(cur, Tensor(value))
        args = [swarm, tensor, None if metadata is None else json.dumps(metadata), expected_version]
        cur.execute("SELECT gpuagent.store_swarm_ref(%s, %b, %s::jsonb, %s)", args, binary=True)
        return cur.fetchone()[0]


def save_state_dict(
    conn: psycopg.Connection,
    expert: str,
    state_dict: Mapping[str, Any],
    *,
    expected_version: int | None = None,
    partial: bool = False,
    part_threshold: int = 8 * _CHUNK,
) -> int:
    """Store a state dict as one version of an expert's weights, in one transaction; returns the version.

    state_dict
        Names and np.ndarray, torch.Tensor, Tensor or NumPy scalars (rank 0). TypeError, before anything is sent, for
        other values: numbers belong into NumPy scalars, or into the metadata of the expert. Nested dicts have to be
        flattened.
    expected_version
        SerializationFailure unless the expert is at this version (0: has none), so that two trainers cannot overwrite
        each other.
    partial
        Layers of the expert that state_dict lacks stay. By default they end with this version.
    part_threshold
        Tensors of more bytes, of any size, are cut into chunks of 1 MiB, and chunks that the store has are not sent.

    A transaction that is open already is not committed, and all that it saves is one version.
    """
    if not state_dict:
        raise ValueError("the state dict is empty")
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise TypeError(f"the name {name!r} is not a string")
        if not (isinstance(value, (np.ndarray, np.generic, Tensor)) or _is_torch(value)):
            raise TypeError(f"{name!r} is a {type(value).__name__}, not a tensor; numbers have to be NumPy scalars")
    with _open_cursor(conn, "save_state_dict") as cur, conn.transaction():
        refs = []
        small = []
        for name, value in state_dict.items():
            if _nbytes(value) > part_threshold:
                refs.append((expert, name, _store_parts(cur, Tensor(value))))
            else:
                small.append(name)
        # The expert is locked only now, after the long part.
        cur.execute("SELECT gpuagent_store.lock_expert(%s, %s)", [expert, expected_version], binary=True)
        version = cur.fetchone()[0]
        rows = ((expert, name, Tensor(state_dict[name])) for name in small)
        for batch in _batches(rows, lambda row: row[2].nbytes):
            cur.executemany("SELECT gpuagent.store_weights(%s, %s, %b)", batch)
        if refs:
            cur.executemany("SELECT gpuagent.store_weights_ref(%s, %s, %s)", refs)
        if not partial:
            cur.execute(
                "SELECT gpuagent.delete_weights(%s, h.layer_name)"
                " FROM gpuagent_store.weight_hashes(%s, NULL, NULL, NULL) h"
                " WHERE h.weights IS NOT NULL AND h.layer_name <> ALL (%s)",
                [expert, expert, list(state_dict)],
            )
    return version


def load_state_dict(
    conn: psycopg.Connection,
    expert: str,
    version: int | None = None,
    checkpoint: int | None = None,
    framework: str = "numpy",
) -> dict[str, Any]:
    """Read an expert's weights, as of a version (None: the newest) or a checkpoint, in the order of their names.

    framework "numpy" gives np.ndarray, writable, and Tensor for dtypes that NumPy lacks; "torch" gives torch.Tensor on
    the CPU. Tensors may have any size. A layer that was stored with biases (store_weights in SQL) gives NAME.weight
    and NAME.bias. LookupError when there is nothing.
    """
    if framework not in ("numpy", "torch"):
        raise ValueError(f"unknown framework {framework!r}; known are numpy, torch")
    with _open_cursor(conn, "load_state_dict") as cur, conn.transaction():
        cur.execute(
            "SELECT h.layer_name, h.biases IS NOT NULL, p.bias, t.hash, t.dtype, t.shape, t.nbytes"
            " FROM gpuagent_store.weight_hashes(%s, NULL, %s, %s) h,"
            " LATERAL (VALUES (false, h.weights), (true, h.biases)) p (bias, hash),"
            " LATERAL (SELECT * FROM gpuagent_store.tensor t WHERE t.hash = p.hash LIMIT 1) t"
            " WHERE h.weights IS NOT NULL ORDER BY h.layer_name, p.bias",
            [expert, version, checkpoint],
            binary=True,
        )
        result: dict[str, Any] = {}
        small: list[tuple[np.ndarray, bytes]] = []
        for name, paired, bias, tensor, dtype_name, shape, nbytes in cur.fetchall():
            if paired:
                name += ".bias" if bias else ".weight"
            dtype = _BY_NAME[dtype_name]
            dims = (nbytes,) if dtype.alias == "packed" else shape
            data: np.ndarray = np.empty(dims, dtype.storage)
            result[name] = data if dtype.native else Tensor(data, dtype.name, shape)
            if nbytes > 8 * _CHUNK:
                raw = data.reshape(-1).view(np.uint8)
                chunks = cur.stream("SELECT ordinal, data FROM gpuagent.tensor_chunks(%b)", [tensor], binary=True)
                for ordinal, chunk in chunks:
                    piece = _parts(chunk)[2].view(np.uint8)
                    raw[(ordinal - 1) * _CHUNK :][: piece.size] = piece
            else:
                small.append((data, tensor))
        values = cur.stream(
            "SELECT n, gpuagent_store.get_tensor(h) FROM unnest(%b::bytea[]) WITH ORDINALITY u (h, n)",
            [[tensor for _, tensor in small]],
            binary=True,
        )
        for n, value in values:
            small[n - 1][0][...] = _parts(value)[2]
    if not result:
        raise LookupError(f"expert {expert!r} has no weights" + ("" if version is None else f" at version {version}"))
    if framework == "torch":
        return {name: Tensor(value).torch() for name, value in result.items()}
    return result


# Last: it uses what is above.
from .mapped import HandleError, Mapped, StaleHandle, Torn, map_swarm, open_handle  # noqa: E402
