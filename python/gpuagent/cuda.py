"""GPU memory that another process made, through the driver's libcuda.so.1 and nothing else.

Every function works in the primary context of its device, which is the one that CuPy and PyTorch use.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Any, Iterator

_PROT_READ = 1
_PROT_READWRITE = 3
_POSIX_FD = 1  # CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_ON_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE
_LAZY_PEER = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
_DEVICE_ORDINAL = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL


class CudaError(RuntimeError):
    """The driver refused, or there is none."""


class _Access(ctypes.Structure):
    _fields_ = [("location_type", ctypes.c_int), ("device", ctypes.c_int), ("flags", ctypes.c_int)]


class _IpcHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_ubyte * 64)]


@functools.lru_cache(maxsize=None)
def _driver() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as e:
        raise CudaError(f"there is no CUDA driver: {e}") from None
    pointer, size, number = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_uint64
    library.cuMemAddressReserve.argtypes = [ctypes.c_void_p, size, size, pointer, number]
    library.cuMemMap.argtypes = [pointer, size, size, number, number]
    library.cuMemSetAccess.argtypes = [pointer, size, ctypes.c_void_p, size]
    library.cuMemUnmap.argtypes = library.cuMemAddressFree.argtypes = [pointer, size]
    library.cuMemRelease.argtypes = [number]
    library.cuMemImportFromShareableHandle.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    library.cuIpcOpenMemHandle_v2.argtypes = [ctypes.c_void_p, _IpcHandle, ctypes.c_uint]
    library.cuIpcCloseMemHandle.argtypes = [pointer]
    library.cuPointerGetAttribute.argtypes = [ctypes.c_void_p, ctypes.c_int, pointer]
    library.cuCtxPushCurrent_v2.argtypes = [ctypes.c_void_p]
    library.cuStreamSynchronize.argtypes = [ctypes.c_void_p]
    status = library.cuInit(0)
    if status != 0:
        raise CudaError(f"the CUDA driver does not start (error {status})")
    return library


def _call(name: str, *args: Any) -> None:
    status = getattr(_driver(), name)(*args)
    if status != 0:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} (error {status})")


def device_with_uuid(uuid: bytes) -> int:
    """The number that this process has for a GPU; CUDA_VISIBLE_DEVICES makes it differ from the server's."""
    count = ctypes.c_int()
    _call("cuDeviceGetCount", ctypes.byref(count))
    for number in range(count.value):
        device = ctypes.c_int()
        _call("cuDeviceGet", ctypes.byref(device), number)
        for getter in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):  # they differ for an instance of a divided GPU
            found = (ctypes.c_ubyte * 16)()
            if hasattr(_driver(), getter):
                _call(getter, ctypes.byref(found), device)
                if bytes(found) == uuid:
                    return number
    raise CudaError(f"this process does not see the GPU {uuid.hex()}; look at CUDA_VISIBLE_DEVICES")


@functools.lru_cache(maxsize=None)
def _context(device: int) -> ctypes.c_void_p:
    context = ctypes.c_void_p()
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


@contextlib.contextmanager
def _in_context(device: int) -> Iterator[None]:
    _call("cuCtxPushCurrent_v2", _context(device))
    try:
        yield
    finally:
        _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def import_fd(fd: int, nbytes: int, device: int, writable: bool) -> int:
    """Maps memory of cuMemCreate that was exported as a file descriptor; its address."""
    allocation, address = ctypes.c_uint64(), ctypes.c_uint64()
    with _in_context(device):
        _call("cuMemImportFromShareableHandle", ctypes.byref(allocation), ctypes.c_void_p(fd), _POSIX_FD)
        try:
            _call("cuMemAddressReserve", ctypes.byref(address), nbytes, 0, 0, 0)
            try:
                _call("cuMemMap", address, nbytes, 0, allocation, 0)
            except CudaError:
                _driver().cuMemAddressFree(address, nbytes)
                raise
        finally:
            _driver().cuMemRelease(allocation)  # a mapping keeps the memory
        access = _Access(_ON_DEVICE, device, _PROT_READWRITE if writable else _PROT_READ)
        try:
            _call("cuMemSetAccess", address, nbytes, ctypes.byref(access), 1)
        except CudaError:
            _driver().cuMemUnmap(address, nbytes)
            _driver().cuMemAddressFree(address, nbytes)
            raise
    return address.value


def unmap(address: int, nbytes: int, device: int) -> None:
    with _in_context(device):
        _call("cuCtxSynchronize")
        _call("cuMemUnmap", address, nbytes)
        _call("cuMemAddressFree", address, nbytes)


def open_ipc(handle: bytes, device: int) -> tuple[int, int]:
    """Opens what cudaIpcGetMemHandle gave; its address and the device that it is on."""
    address, ordinal = ctypes.c_uint64(), ctypes.c_int()
    with _in_context(device):
        _call("cuIpcOpenMemHandle_v2", ctypes.byref(address), _IpcHandle.from_buffer_copy(handle), _LAZY_PEER)
        _call("cuPointerGetAttribute", ctypes.byref(ordinal), _DEVICE_ORDINAL, address)
    return address.value, ordinal.value


def close_ipc(address: int, device: int) -> None:
    with _in_context(device):
        _call("cuCtxSynchronize")
        _call("cuIpcCloseMemHandle", address)


def synchronize(device: int, stream: Any = None) -> None:
    """Waits for a stream of CuPy or PyTorch, or its handle; None: for all that this process does on the device."""
    for attribute in ("cuda_stream", "ptr"):
        stream = getattr(stream, attribute, stream)
    with _in_context(device):
        if stream is None:
            _call("cuCtxSynchronize")
        else:
            _call("cuStreamSynchronize", ctypes.c_void_p(stream))
