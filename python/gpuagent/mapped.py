"""Mapped memory: what map_swarm(), map_agents() and map_query() hand out, as arrays of NumPy, CuPy and PyTorch.

The formats are those of src/device/protocol.h; doc/formats.md has them in words. The client has to run on the server's
machine, as the server's operating-system user or as root: files and sockets are for these alone.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import mmap
import os
import platform
import socket
import struct
import threading
import warnings
import weakref
from typing import Any, Iterator, Mapping, NamedTuple

import numpy as np
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row

from . import _BY_NAME, _count, _DType, cuda

__all__ = ["HandleError", "Mapped", "StaleHandle", "Torn", "map_swarm", "open_handle"]


class HandleError(Exception):
    """A handle that cannot be opened or used here."""


class StaleHandle(HandleError):
    """The memory is no longer what the server has: the swarm was restored, or the lease has ended. Map again."""


class Torn(HandleError):
    """A writer ended inside a step, so that the contents are half of one step. Use revert(), or sync(force=True)."""


# ---- formats ----

_CONTROL = struct.Struct("=IIQQQQIIq")  # GaControl
_CONTROL_MAGIC = 0x4C525443
_SEQUENCE, _STEP, _EPOCH = 3, 4, 10  # as 8-byte words, the last as a 4-byte word
_EPOCH_EXPIRED = 0x80000000  # a bit of it
_PAGE = 4096
_HELLO = struct.Struct("=IIII32s")  # GaHello
_MEMORY = struct.Struct("=IIQ16sIi")  # GaMemory
_PROTOCOL_MAGIC, _PROTOCOL_VERSION = 0x56454447, 1
_HELLO_CLIENT = 2
_STATUS = ("OK", "over budget", "unknown or used up", "invalid", "CUDA failed", "lost")
_LOCK_HOLD, _LOCK_STEP = 0, 1
_FLOCK = struct.Struct("hhqqi0q")  # struct flock of 64-bit Linux
_STORES_ARE_ORDERED = platform.machine() in ("x86_64", "AMD64")

_HANDLE = (
    "handle object version mode device dtype shape nbytes size_bytes data_offset control_offset kind path token expires_at"
).split()


def _lock(fd: int, command: int, kind: int, byte: int) -> int:
    """An open-file-description lock on one byte; F_OFD_GETLK gives the kind of lock that stands in the way."""
    return _FLOCK.unpack(fcntl.fcntl(fd, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)))[0]


@contextlib.contextmanager
def _opened(path: str, writable: bool) -> Iterator[int]:
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


class _Map(mmap.mmap):
    """A mapping with the locks that are held as long as an array lives in it."""

    control: Any


_open: weakref.WeakSet[Any] = weakref.WeakSet()  # what has to know of a fork


class _Thread(threading.local):
    """Regions in whose step a thread is, by inode: it would wait for itself."""

    def __init__(self) -> None:
        self.regions: set[int] = set()


_thread = _Thread()


def _after_fork() -> None:
    _thread.regions.clear()
    for item in list(_open):
        item.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class _Control:
    """A region's control page, and the locks of this process.

    Locks belong to an open file description, and mmap keeps a copy of its fd: so the page is mapped through another
    description than the one that is locked. A child after fork() gets descriptions of its own, or it would share its
    parent's locks and keep them beyond its parent's death.
    """

    def __init__(self, path: str, offset: int, writable: bool):
        self.writable = writable
        self.fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            _lock(self.fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, _LOCK_HOLD)
            status = os.fstat(self.fd)
            if status.st_nlink == 0:
                raise StaleHandle("the memory was removed before it was opened")
            with _opened(self.path, writable) as fd:
                self.page = mmap.mmap(fd, offset + _PAGE, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
            view = memoryview(self.page)[offset : offset + 56]
            magic, version, *_ = _CONTROL.unpack(view)
            if magic != _CONTROL_MAGIC or version != _PROTOCOL_VERSION:
                raise HandleError(f"control page {magic:#x} of version {version}; known here is {_PROTOCOL_VERSION}")
            # Aligned words, which the interpreter reads and writes with one instruction each.
            self.words, self.halves = view.cast("Q"), view.cast("I")
        except BlockingIOError:
            os.close(self.fd)
            raise StaleHandle("the server is removing the memory") from None
        except BaseException:
            os.close(self.fd)
            raise
        self.epoch, self.inode = self.halves[_EPOCH], status.st_ino
        self.lost = ""
        self.mutex, self.stepping = threading.Lock(), 0
        _open.add(self)

    def __del__(self) -> None:
        if hasattr(self, "mutex"):
            os.close(self.fd)

    @property
    def path(self) -> str:
        """Opens the file again, also when it has no name any more."""
        return f"/proc/self/fd/{self.fd}"

    def after_fork(self) -> None:
        self.mutex, self.stepping = threading.Lock(), 0
        try:
            with _opened(self.path, self.writable) as fd:
                os.dup2(fd, self.fd, inheritable=False)
            _lock(self.fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, _LOCK_HOLD)
        except OSError as e:
            self.lost = f"the memory cannot be opened after fork: {e}"
            with _opened(os.devnull, False) as fd:
                os.dup2(fd, self.fd, inheritable=False)

    def check(self) -> None:
        if self.lost:
            raise StaleHandle(self.lost)
        if self.halves[_EPOCH] & _EPOCH_EXPIRED or os.fstat(self.fd).st_nlink == 0:
            raise StaleHandle("the lease has ended")
        if self.halves[0] != _CONTROL_MAGIC:
            raise StaleHandle("a client has destroyed the memory: opening its file with mode w+ does that")
        if self.halves[_EPOCH] != self.epoch:
            raise StaleHandle("the server replaced the contents, by a restore or a restart of the device, since they were mapped")

    def torn(self) -> bool:
        """Odd, nobody at it, and still the same odd: else a writer has finished in between. Own locks are not seen."""
        sequence = self.words[_SEQUENCE]
        if sequence % 2 == 0 or self.stepping:
            return False
        free = _lock(self.fd, fcntl.F_OFD_GETLK, fcntl.F_RDLCK, _LOCK_STEP) == fcntl.F_UNLCK
        return free and self.words[_SEQUENCE] == sequence

    def require_no_step(self) -> None:
        if self.inode in _thread.regions:
            raise RuntimeError("this thread is in a step of this memory, and would wait for itself")

    def fence(self) -> None:
        """Orders stores. On x86-64 they are; elsewhere two system calls that take and release a lock in the kernel do it."""
        if not _STORES_ARE_ORDERED:
            for _ in range(2):
                _lock(self.fd, fcntl.F_OFD_GETLK, fcntl.F_RDLCK, _LOCK_HOLD)

    @contextlib.contextmanager
    def step(self, finish: Any, repair: bool) -> Iterator[int]:
        self.require_no_step()
        writer = os.getpid()
        with self.mutex:
            try:
                _lock(self.fd, fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, _LOCK_STEP)
                self.check()
                sequence = self.words[_SEQUENCE]
                if sequence & 1 and not repair:
                    raise Torn("a writer ended inside a step: revert(), or sync(force=True), or step(repair=True)")
                self.stepping = threading.get_ident()
                _thread.regions.add(self.inode)
                # The next odd number: a torn one is that of a forced sync, which may still be about to end it.
                self.words[_SEQUENCE] = odd = (sequence + 1) | 1
                self.fence()
                yield self.words[_STEP] + 1
                if os.getpid() != writer:
                    raise RuntimeError("this step belongs to the parent of this process")
                finish()
                self.words[_STEP] += 1
                self.fence()
                self.words[_SEQUENCE] = odd + 1
                self.check()
            finally:
                if os.getpid() == writer:
                    self.stepping = 0
                    _thread.regions.discard(self.inode)
                    _lock(self.fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, _LOCK_STEP)


# ---- memory ----


class _HostMemory:
    """Memory that every process can map: a file."""

    device = None

    def __init__(self, path: str, offset: int, nbytes: int, writable: bool, control: _Control):
        self.path, self.offset, self.nbytes, self.writable, self.control = path, offset, nbytes, writable, control
        self.map = self._mapped(mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))

    def _mapped(self, flags: int, prot: int) -> _Map:
        with _opened(self.path, self.writable) as fd:
            result = _Map(fd, max(self.offset + self.nbytes, 1), flags=flags, prot=prot)
        result.control = self.control
        return result

    def array(self, dtype: np.dtype, shape: tuple[int, ...], copy_on_write: bool = False) -> np.ndarray:
        memory = self.map
        if copy_on_write and not self.writable:
            memory = self._mapped(mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        return np.ndarray(shape, dtype, memory, self.offset)

    def synchronize(self, stream: Any) -> None:
        pass


class _CudaMemory:
    """Memory of a GPU; given back when the last array in it is gone."""

    def __init__(self, device: int, nbytes: int, control: _Control, connection: socket.socket | None):
        self.device, self.nbytes, self.control, self.connection = device, nbytes, control, connection
        self.address, self.pid, self.ipc = 0, os.getpid(), False
        _open.add(self)

    def import_fd(self, fd: int, writable: bool) -> _CudaMemory:
        self.address = cuda.import_fd(fd, self.nbytes, self.device, writable)
        return self

    def open_ipc(self, token: bytes) -> _CudaMemory:
        self.address, self.device = cuda.open_ipc(token, self.device)
        self.ipc = True
        return self

    def __del__(self) -> None:
        if self.address and self.pid == os.getpid():
            with contextlib.suppress(cuda.CudaError, TypeError):  # a broken context; an interpreter that is ending
                if self.ipc:
                    cuda.close_ipc(self.address, self.device)
                else:
                    cuda.unmap(self.address, self.nbytes, self.device)
        if self.connection is not None:
            self.connection.close()

    def after_fork(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.control.lost = "CUDA memory cannot be used after fork"

    def synchronize(self, stream: Any) -> None:
        cuda.synchronize(self.device, stream)


class _CudaView:
    """What PyTorch takes for a tensor in place: raw integers, whose dtype it then changes."""

    def __init__(self, memory: _CudaMemory, offset: int, itemsize: int, shape: tuple[int, ...]):
        self.memory = memory
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "|u1" if itemsize == 1 else f"<i{itemsize}",
            "data": (memory.address + offset if _count(shape) else 0, False),
            "version": 2,
        }


# ---- kinds ----


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(30)
    try:
        if len(os.fsencode(path)) < 108:
            connection.connect(path)
        else:  # longer than an address may be
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
    except BaseException:
        connection.close()
        raise
    return connection


def _fetch(path: str, token: bytes) -> tuple[socket.socket, int, bytes, list[int]]:
    """Connection, bytes, GPU and the fds of memory and control page, from the device process."""
    connection = _connect(path)
    fds: list[int] = []
    try:
        connection.sendall(_HELLO.pack(_PROTOCOL_MAGIC, _PROTOCOL_VERSION, _HELLO_CLIENT, 0, token))
        answer, fds, _, _ = socket.recv_fds(connection, _MEMORY.size, 2)
        if len(answer) != _MEMORY.size:
            raise HandleError("the device process closed the connection: the token is unknown, used up or too old")
        magic, status, nbytes, uuid, _, _ = _MEMORY.unpack(answer)
        if magic != _PROTOCOL_MAGIC:
            raise HandleError(f"the device process answers {magic:#x}")
        if status != 0 or len(fds) != 2:
            raise HandleError(f"the device process does not hand out the memory: {_STATUS[min(status, 5)]}")
        return connection, nbytes, uuid, fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        connection.close()
        raise


def _import_fd(fd: int, nbytes: int, uuid: bytes, writable: bool, control: _Control, connection: socket.socket) -> Any:
    device = cuda.device_with_uuid(uuid)
    return _CudaMemory(device, nbytes, control, connection).import_fd(fd, writable)


def _open_memory(row: dict[str, Any], writable: bool) -> tuple[_Control, Any]:
    kind, path, token = row["kind"], row["path"], bytes(row["token"] or b"")
    if kind == "shm":
        control = _Control(path, row["control_offset"], writable)
        return control, _HostMemory(control.path, row["data_offset"], row["nbytes"], writable, control)
    if kind == "cuda_fd":
        connection, nbytes, uuid, fds = _fetch(path, token)
        try:
            # Opened again, as the description of the fd itself is shared with the device process and all its clients.
            control = _Control(f"/proc/self/fd/{fds[1]}", row["control_offset"], writable)
            return control, _import_fd(fds[0], nbytes, uuid, writable, control, connection)
        except BaseException:
            connection.close()
            raise
        finally:
            for fd in fds:
                os.close(fd)
    if kind == "cuda_ipc":
        control = _Control(path, row["control_offset"], writable)
        device = int(row["device"].rpartition(":")[2])
        return control, _CudaMemory(device, row["nbytes"], control, None).open_ipc(token)
    raise HandleError(f"unknown kind of memory {kind!r}")


# ---- the object ----


class Synced(NamedTuple):
    """A row of sync_swarm()."""

    version: int
    changed: bool
    dirty_bytes: int
    step: int


class Mapped:
    """Memory of a handle. A context manager that closes it; made by map_swarm() and open_handle().

    Attributes: object, version, mode, device, kind, dtype, shape, nbytes, expires_at as in the handle row; handle, its
    uuid; synced, the whole row of the last sync().

    Arrays may outlive it: the memory stays mapped, and counted by the server, until the last of them is gone.
    """

    def __init__(self, row: Any, conn: psycopg.Connection | None = None, lease: Any = "5 min", autorenew: bool = False):
        values = _as_dict(row)
        self.handle, self.object, self.version = values["handle"], values["object"], values["version"]
        self.mode, self.device, self.kind = values["mode"], values["device"], values["kind"]
        self.dtype, self.shape, self.nbytes = values["dtype"], tuple(values["shape"]), values["nbytes"]
        self.expires_at: datetime.datetime = values["expires_at"]
        self.synced: Synced | None = None
        self._conn, self._lease, self._pid = conn, _interval(lease), os.getpid()
        self._conninfo = (conn.info.dsn, conn.info.password) if conn else ("", "")
        self._offset = values["data_offset"]
        self._stop = threading.Event()
        self._closed = True
        try:
            self._control, self._memory = _open_memory(values, self.mode != "r")
        except (FileNotFoundError, ConnectionRefusedError) as e:
            raise StaleHandle(f"{self.object} is gone, or its server runs on another machine: {e}") from e
        except PermissionError as e:
            raise HandleError(f"{self.object} is for the server's operating-system user and root: {e}") from e
        self._closed = False
        if autorenew:
            self._start_renewing()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.kind
        return f"<gpuagent.Mapped {self.object} {self.dtype}{list(self.shape)} {self.mode} {state}>"

    def __enter__(self) -> Mapped:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    # ---- arrays ----

    def _layout(self, raw: bool) -> tuple[_DType, tuple[int, ...]]:
        dtype = _BY_NAME[self.dtype]
        if not dtype.native and not raw:
            raise TypeError(f"{self.dtype} has no dtype here; raw=True gives its bits as {dtype.storage.name}")
        return dtype, (self.nbytes,) if dtype.alias == "packed" else self.shape

    def _open_memory(self) -> Any:
        if self._closed:
            raise ValueError(f"{self.object} is closed")
        if self._control.lost:
            raise StaleHandle(self._control.lost)
        return self._memory

    def numpy(self, raw: bool = False) -> np.ndarray:
        """The contents in place, read-only in mode r; raw: dtypes that NumPy lacks as unsigned integers of their bits."""
        memory = self._open_memory()
        if not isinstance(memory, _HostMemory):
            raise TypeError(f"{self.object} is in the memory of {self.device}: use cupy() or torch()")
        dtype, shape = self._layout(raw)
        return memory.array(dtype.storage, shape)

    def cupy(self, raw: bool = False) -> Any:
        """The contents in place as cupy.ndarray. In mode r a kernel that writes fails, and the context with it."""
        memory = self._open_memory()
        if not isinstance(memory, _CudaMemory):
            raise TypeError(f"{self.object} is in the memory of the host: use numpy() or torch()")
        import cupy

        dtype, shape = self._layout(raw)
        whole = cupy.cuda.UnownedMemory(memory.address, memory.nbytes, memory, memory.device)
        return cupy.ndarray(shape, dtype.storage, cupy.cuda.MemoryPointer(whole, self._offset))

    def torch(self, raw: bool = False) -> Any:
        """The contents in place as torch.Tensor, bfloat16 and float8 included.

        PyTorch has no read-only tensors: in mode r, writing to one of the host changes a private copy of the page, and a
        kernel that writes to one of a GPU fails, and the context with it.
        """
        import torch

        memory = self._open_memory()
        dtype = _BY_NAME[self.dtype]
        name, shape = dtype.alias or dtype.storage.name, self.shape
        if not hasattr(torch, name):
            shape = self._layout(raw)[1]
            name = ("uint8", "int16", "int32", "int64")[dtype.storage.itemsize.bit_length() - 1]
        if isinstance(memory, _HostMemory):
            width = f"<i{dtype.storage.itemsize}" if dtype.storage.itemsize > 1 else "u1"
            result = torch.from_numpy(memory.array(np.dtype(width), shape, copy_on_write=True))
        else:
            torch.cuda.init()
            view = _CudaView(memory, self._offset, dtype.storage.itemsize, shape)
            result = torch.as_tensor(view, device=f"cuda:{memory.device}")
        return result.view(getattr(torch, name))

    # ---- writing ----

    def step(self, *, stream: Any = None, repair: bool = False) -> Any:
        """A context manager around writes, so that no version has half of them; its value is the number of the step.

        Waits for other writers. Leaving it waits for the GPU: for all work of this process on it, or that of one stream.
        An exception inside leaves the swarm torn, as the death of the process does: then sync() refuses, until
        revert(), sync(force=True), or a step(repair=True) that writes everything again. StaleHandle when the server
        replaced the contents.
        """
        memory = self._open_memory()
        if self.mode == "r":
            raise HandleError(f"{self.object} is mapped read-only")
        return self._control.step(lambda: memory.synchronize(stream), repair)

    @property
    def steps(self) -> int:
        """Steps since the swarm was placed in this memory."""
        self._open_memory()
        return self._control.words[_STEP]

    @property
    def torn(self) -> bool:
        self._open_memory()
        return self._control.torn()

    def sync(self, metadata: Mapping[str, Any] | None = None, *, force: bool = False) -> int:
        """Make the contents a version of the swarm, at the price of what changed; returns the version.

        The same version as before when nothing changed. Belongs to the transaction of the connection, if one is open.
        Torn and StaleHandle as for step(); force accepts torn contents.
        """
        self._open_memory()
        self._control.check()
        self._control.require_no_step()
        if not force and self._control.torn():
            raise Torn(f"a writer of {self.object} ended inside a step: revert(), or sync(force=True)")
        swarm = self.object.partition(":")[2]
        query = "SELECT version, changed, dirty_bytes, step FROM gpuagent.sync_swarm(%s, %s::jsonb, force => %s)"
        try:
            with self._cursor() as cur:
                cur.execute(query, [swarm, None if metadata is None else json.dumps(metadata), force])
                self.synced = Synced._make(cur.fetchone() or ())
        except psycopg.errors.ObjectNotInPrerequisiteState as e:
            self._control.check()
            if not force and self._control.torn():
                raise Torn(str(e)) from e
            raise
        self.version = self.synced.version
        return self.version

    def revert(self) -> int:
        """Bring back the contents of the swarm's newest version, discarding what was not synced; returns the version."""
        self._open_memory()
        self._control.require_no_step()
        with self._cursor() as cur:
            cur.execute("SELECT gpuagent.revert_swarm(%s)", [self.object.partition(":")[2]])
            self.version = cur.fetchone()[0]
        self._control.epoch = self._control.halves[_EPOCH]
        return self.version

    # ---- lease ----

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[psycopg.Cursor]:
        """On the connection given, whose transaction stays as it was."""
        if self._conn is None:
            raise HandleError("this handle was opened without a connection")
        if self._pid != os.getpid():
            raise HandleError("the lease and its connection belong to the parent of this process")
        with psycopg.Cursor(self._conn) as cur, self._conn.transaction():
            yield cur

    def renew(self, lease: Any = None) -> datetime.datetime:
        """Let the lease end that much later than now; returns when."""
        self._open_memory()
        with self._cursor() as cur:
            self.expires_at = _renew(cur, self.handle, self._lease if lease is None else _interval(lease))
        return self.expires_at

    def _start_renewing(self) -> None:
        if self._conn is None:
            raise HandleError("autorenew needs a connection")
        left = self.expires_at - datetime.datetime.now(datetime.timezone.utc)
        arguments = (weakref.ref(self), self._conninfo, self.handle, self._lease, left.total_seconds() / 3)
        thread = threading.Thread(target=_renew_often, args=(self._stop, *arguments), name="gpuagent lease", daemon=True)
        thread.start()
        weakref.finalize(self, self._stop.set)

    def close(self) -> None:
        """End the lease. Arrays that are still there keep the memory, but no longer reach the swarm."""
        if self._closed:
            return
        if self._control.stepping:
            raise RuntimeError("close() inside a step")
        self._closed = True
        del self._memory, self._control
        if self._pid != os.getpid():
            return
        self._stop.set()
        if self._conn is not None:
            try:
                _unmap(self._conn, self._conninfo, self.handle)
            except psycopg.Error as e:
                warnings.warn(f"the lease on {self.object} stays until {self.expires_at}: {e}", stacklevel=2)


def _as_dict(row: Any) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return {name: row[name] for name in _HANDLE}
    if isinstance(row, tuple) and not hasattr(row, "_fields"):
        if len(row) != len(_HANDLE):
            raise TypeError(f"a handle row has {len(_HANDLE)} columns: SELECT * FROM gpuagent.map_..")
        return dict(zip(_HANDLE, row))
    return {name: getattr(row, name) for name in _HANDLE}


def _interval(lease: Any) -> Any:
    return datetime.timedelta(seconds=lease) if isinstance(lease, (int, float)) else lease


def _renew(cur: psycopg.Cursor, handle: Any, lease: Any) -> datetime.datetime:
    try:
        return cur.execute("SELECT gpuagent.renew_handle(%s, %s::interval)", [handle, lease]).fetchone()[0]
    except psycopg.errors.UndefinedObject as e:
        raise StaleHandle(f"the lease has ended: {e}") from e


def _renew_often(stop: Any, mapped: Any, conninfo: tuple[str, str], handle: Any, lease: Any, interval: float) -> None:
    """The thread of autorenew: a connection each time, so that none lies idle and poolers are fine."""
    wait = interval
    while not stop.wait(wait):
        try:
            with _reconnected(conninfo) as conn:
                expires_at = _renew(conn.cursor(), handle, lease)
            wait, target = interval, mapped()
            if target is not None:
                target.expires_at = expires_at
            del target
        except StaleHandle as e:
            target = mapped()
            if target is not None and not target._closed:
                target._control.lost = str(e)
            return
        except psycopg.Error as e:
            warnings.warn(f"the lease of {handle} was not renewed and will be tried again: {e}")
            wait = min(interval, 1.0)


def _reconnected(conninfo: tuple[str, str]) -> psycopg.Connection:
    return psycopg.connect(conninfo[0], password=conninfo[1] or None, autocommit=True)


def _unmap(conn: psycopg.Connection, conninfo: tuple[str, str], handle: Any) -> None:
    """On the connection if it can, else on one like it: a failed transaction must not keep the memory."""
    with contextlib.ExitStack() as stack:
        if conn.closed or conn.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
            conn = stack.enter_context(_reconnected(conninfo))
        with psycopg.Cursor(conn) as cur, conn.transaction():
            cur.execute("SELECT gpuagent.unmap_handle(%s)", [handle])


def open_handle(row: Any, conn: psycopg.Connection | None = None, *, lease: Any = "5 min", autorenew: bool = False) -> Mapped:
    """Open a handle row of map_agents(), map_query() or map_swarm(), as a mapping, a named tuple or a tuple.

    With conn, its lease can be renewed and ends with close(); without, it lasts as long as it was given.
    """
    return Mapped(row, conn, lease, autorenew)


def map_swarm(
    conn: psycopg.Connection,
    swarm: str,
    mode: str = "r",
    version: int | None = None,
    device: str | None = None,
    autosync: bool = False,
    lease: Any = "5 min",
    autorenew: bool = False,
) -> Mapped:
    """Map a swarm into this process; a context manager, which ends the lease.

    mode
        "r": one version, which nobody changes. "r+": the swarm itself, shared by all who map it so; write only inside
        step(), and make versions with sync().
    version, device, autosync
        As in SQL.
    lease
        Text of an interval, timedelta or seconds. Neither the connection nor a transaction ends it.
    autorenew
        A thread renews the lease through connections of its own, at a third of it, until close().
    """
    if not isinstance(conn, psycopg.Connection):
        raise TypeError("map_swarm() takes a psycopg.Connection")
    with psycopg.Cursor(conn, row_factory=namedtuple_row) as cur, conn.transaction():
        row = cur.execute(
            f"SELECT {', '.join(_HANDLE)} FROM gpuagent.map_swarm(%s, %s, %s, %s, %s, %s::interval)",
            [swarm, mode, version, device, autosync, _interval(lease)],
        ).fetchone()
    try:
        return Mapped(row, conn, lease, autorenew)
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            _unmap(conn, (conn.info.dsn, conn.info.password), row.handle)
        raise
