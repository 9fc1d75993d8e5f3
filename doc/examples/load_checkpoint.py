"""Reads exported checkpoints of gpuagent into NumPy or PyTorch, without copying them, and waits for new ones.

    python3 doc/examples/load_checkpoint.py /path/of/storage                     # what is in the newest one
    python3 doc/examples/load_checkpoint.py /path/of/storage --follow            # and in each that follows
    python3 doc/examples/load_checkpoint.py /path/of/storage --follow --conninfo "dbname=app"

The first argument is gpuagent.storage_path, or a copy of that tree. nvme_storage/latest is a line with the name of the
newest exported checkpoint; its folder appears when it is complete and never changes, so files that are mapped stay what
they are, even when the checkpoint is removed later. A manifest names each file with its size and SHA-256, and has a
checksum itself. Tensors are in safetensors files, whose data starts at a multiple of 4096; whatever reads safetensors
reads them. This program needs NumPy; PyTorch for --torch; psycopg for --conninfo, which waits with LISTEN
instead of looking at `latest` once a second.

As a module:

    folder = load_checkpoint.newest(storage)
    with load_checkpoint.lease(folder):                                         # it is not removed meanwhile
        manifest = load_checkpoint.verify(folder)
        objects = load_checkpoint.load(folder, manifest)                        # "agents-1", "swarm:pop", "expert:net", ...
    for folder in load_checkpoint.follow(storage, "dbname=app"):                # the newest, then each new one
        ...
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import mmap
import os
import pathlib
import struct
import sys
import time
from typing import Any, Iterator

import numpy as np

# dtypes of safetensors; those that NumPy lacks come as unsigned integers of their size, with the same bits.
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8", "BF16": "<u2",
    "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1", "F8_E4M3FNUZ": "u1", "F8_E5M2FNUZ": "u1",
}
TORCH = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
MAX_HEADER = 100_000_000


class Damaged(Exception):
    """Files are not what they should be."""


class Gone(Exception):
    """The checkpoint was deleted and its folder removed: look for the newest one again."""


def newest(storage: str | pathlib.Path) -> pathlib.Path | None:
    """Folder of the newest exported checkpoint; None while there is none."""
    root = pathlib.Path(storage) / "nvme_storage"
    try:
        name = (root / "latest").read_text().rstrip("\n")
    except FileNotFoundError:
        return None
    if "/" in name or name.startswith("."):
        raise Damaged(f"{root / 'latest'} holds {name!r}")
    return root / name


@contextlib.contextmanager
def lease(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Keeps the folder from being removed until the end, even when its checkpoint is deleted. What is mapped needs no lease."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise Gone(str(folder)) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        try:
            here = os.stat(folder, follow_symlinks=False)
        except FileNotFoundError:
            raise Gone(str(folder)) from None
        if (here.st_dev, here.st_ino) != (os.fstat(fd).st_dev, os.fstat(fd).st_ino):
            raise Gone(str(folder))
        yield folder
    finally:
        os.close(fd)


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Three lines that together are JSON; the third has the SHA-256 of the second."""
    text = (folder / "MANIFEST.json").read_bytes()
    lines = text.split(b"\n")
    if len(lines) != 4 or lines[2] != b',"sha256":"%s"}' % hashlib.sha256(lines[1]).hexdigest().encode():
        raise Damaged(f"the manifest of {folder} does not have its SHA-256")
    manifest = json.loads(lines[1])
    if manifest["format"] != "gpuagent checkpoint" or manifest["format_version"] != 1:
        raise Damaged(f"{folder} is {manifest['format']} version {manifest['format_version']}")
    return manifest


def files_of(manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of section and file."""
    for section in manifest["sections"]:
        for file in section["files"]:
            if "/" in file["name"] or file["name"].startswith("."):
                raise Damaged(f"the manifest names a file {file['name']!r}")
            yield section, file


def verify(folder: pathlib.Path, hashes: bool = True) -> dict[str, Any]:
    """The manifest of a checkpoint, after checking that all files are there with their sizes and hashes."""
    manifest = read_manifest(folder)
    for _, file in files_of(manifest):
        path = folder / file["name"]
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file["nbytes"]:
            raise Damaged(f"{path} is missing or does not have {file['nbytes']} bytes")
        if hashes:
            digest = hashlib.sha256()
            with open(path, "rb") as f:
                while piece := f.read(1 << 20):
                    digest.update(piece)
            if digest.hexdigest() != file["sha256"]:
                raise Damaged(f"{path} does not have the SHA-256 {file['sha256']}")
    return manifest


def open_safetensors(path: pathlib.Path, torch: Any = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors of a file, mapped and not copied, and its metadata. They are private: what is written into them stays here."""
    with open(path, "rb") as f:
        prefix = f.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER + 1
        if length > MAX_HEADER:
            raise Damaged(f"{path} has no header")
        header = json.loads(f.read(length))
        whole = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        kind = entry["dtype"]
        if not 0 <= begin <= end <= len(whole) - 8 - length:
            raise Damaged(f"tensor {name!r} of {path} is not within the file")
        dtype = np.dtype(DTYPES.get(kind, "u1"))
        shape = entry["shape"] if kind in DTYPES else [end - begin]   # packed dtypes: their bytes
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise Damaged(f"tensor {name!r} of {path} does not have the bytes of its shape")
        array = np.frombuffer(whole, dtype, math.prod(shape), 8 + length + begin).reshape(shape)
        tensors[name] = array if torch is None else to_torch(array, kind, torch)
    return tensors, metadata


def to_torch(array: np.ndarray, kind: str, torch: Any) -> Any:
    """The same memory as a tensor of PyTorch; where it lacks the dtype (unsigned integers before 2.3), as integers of the same bits."""
    name = TORCH.get(kind, array.dtype.name)
    if array.dtype.kind == "u" and array.itemsize > 1 and (kind in TORCH or not hasattr(torch, name)):
        array = array.view(f"<i{array.itemsize}")
    tensor = torch.from_numpy(array)
    return tensor.view(getattr(torch, name)) if hasattr(torch, name) else tensor


def load(folder: pathlib.Path, manifest: dict[str, Any], torch: Any = None) -> dict[str, dict[str, Any]]:
    """Tensors by object and name: "swarm:NAME" has "data", "expert:NAME" its layers, shards joined, "graph:NAME" its rows.

    Agents of one shape are the rows of the tensors of a file; those of the k-th file are under "agents-k", and their ids
    in the lines of agents-k.jsonl, in the same order (agent_ids).
    """
    objects: dict[str, dict[str, Any]] = {}
    for section, file in files_of(manifest):
        if file["name"].endswith(".safetensors"):
            key = section["object"] if section["object"] != "agents" else file["name"][: -len(".safetensors")]
            objects.setdefault(key, {}).update(open_safetensors(folder / file["name"], torch)[0])
    return objects


def agent_ids(folder: pathlib.Path, key: str) -> list[str]:
    """Ids of the rows of an object "agents-k"."""
    with open(folder / f"{key}.jsonl", encoding="utf-8") as f:
        return [json.loads(line)["id"] for line in f]


def follow(storage: str | pathlib.Path, conninfo: str | None = None, poll: float = 1.0, timeout: float | None = None) -> Iterator[pathlib.Path]:
    """The newest exported checkpoint, then each newer one; ends when none came for `timeout` seconds.

    With a conninfo it sleeps until the server tells of one (NOTIFY gpuagent_checkpoint, sent when an export is there), and
    looks at `latest` at times all the same: notifications are not kept for who is not connected.
    """
    conn = None
    if conninfo is not None:
        import psycopg

        conn = psycopg.connect(conninfo, autocommit=True)
        conn.execute("LISTEN gpuagent_checkpoint")
        poll = max(poll, 10.0)
    seen, since = None, time.monotonic()
    try:
        while True:
            folder = newest(storage)
            if folder is not None and folder != seen:
                seen, since = folder, time.monotonic()
                yield folder
                continue
            left = math.inf if timeout is None else since + timeout - time.monotonic()
            if left <= 0:
                return
            if conn is None:
                time.sleep(min(poll, left))
            else:
                for _ in conn.notifies(timeout=min(poll, left), stop_after=1):
                    pass
    finally:
        if conn is not None:
            conn.close()


def describe(folder: pathlib.Path, torch: Any = None) -> None:
    with lease(folder):
        manifest = verify(folder)
        objects = load(folder, manifest, torch)
    checkpoint = manifest["checkpoint"]
    print(f"{folder.name}: label {checkpoint['label']}, run {checkpoint['run']}, step {checkpoint['step']}")
    for name, tensors in objects.items():
        for tensor, array in tensors.items():
            print(f"  {name} {tensor} {array.dtype} {list(array.shape)}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads exported checkpoints of gpuagent.")
    parser.add_argument("storage", help="gpuagent.storage_path, or a copy of the tree")
    parser.add_argument("--follow", action="store_true", help="go on with each new checkpoint")
    parser.add_argument("--conninfo", help="wait for notifications of this database")
    parser.add_argument("--timeout", type=float, help="with --follow: seconds without a new checkpoint after which to end")
    parser.add_argument("--torch", action="store_true", help="tensors of PyTorch")
    arguments = parser.parse_args()
    torch = None
    if arguments.torch:
        import torch
    if arguments.follow:
        for folder in follow(arguments.storage, arguments.conninfo, timeout=arguments.timeout):
            with contextlib.suppress(Gone):
                describe(folder, torch)
    else:
        folder = newest(arguments.storage)
        if folder is None:
            sys.exit("there is no exported checkpoint")
        describe(folder, torch)


if __name__ == "__main__":
    main()
