"""A second reader of safetensors files: NumPy, struct and json, nothing of the safetensors package or of gpuagent.

It is strict where the format is: sorted ranges without holes or overlaps that end with the file, sizes that agree
with dtype and shape, no name twice.  The demo and the tests read exported files with it and with the package.
"""
import json
import math
import struct

import numpy as np

# The bits of a value; dtypes that NumPy does not know come back as unsigned integers of their width.
DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
    "C64": np.complex64, "BF16": np.uint16, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8,
}


class FormatError(ValueError):
    pass


def _once(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FormatError("a name occurs twice")
    return result


def read_header(path):
    """Return (entries, metadata, start of the data, size of the file)."""
    with open(path, "rb") as f:
        prefix = f.read(8)
        if len(prefix) != 8:
            raise FormatError("shorter than its length field")
        (length,) = struct.unpack("<Q", prefix)
        if length > 100_000_000:
            raise FormatError("header too long")
        text = f.read(length)
        if len(text) != length:
            raise FormatError("header cut off")
        size = f.seek(0, 2)
    if not text.startswith(b"{"):
        raise FormatError("header does not begin with {")
    entries = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    metadata = entries.pop("__metadata__", {})
    if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
        raise FormatError("metadata is not text to text")

    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != position or end < begin:
            raise FormatError(f"{name}: begins at {begin}, expected {position}")
        if end - begin != math.prod(entry["shape"]) * np.dtype(DTYPES[entry["dtype"]]).itemsize:
            raise FormatError(f"{name}: {end - begin} bytes do not fit its dtype and shape")
        position = end
    if 8 + length + position != size:
        raise FormatError(f"{size} bytes long, expected {8 + length + position}")
    return entries, metadata, 8 + length, size


def load(path):
    """Return the tensors of a file: name => (dtype's name, array)."""
    entries, _, start, _ = read_header(path)
    result = {}
    with open(path, "rb") as f:
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            f.seek(start + begin)
            flat = np.frombuffer(f.read(end - begin), DTYPES[entry["dtype"]])
            result[name] = (entry["dtype"], flat.reshape(entry["shape"]))
    return result
