"""Memory of a GPU from Python, on a driver without one (fake_cuda.c) and, where there is a server for it, memory that the
emulated device process hands out. On a real GPU: test/gpu/test_mapped_gpu.py."""

import contextlib
import ctypes
import gc
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
from unittest import mock

import numpy as np
import psycopg

import gpuagent
from gpuagent import HandleError, StaleHandle, Tensor, cuda, mapped
from test_mapped import in_child


def setUpModule():
    global DRIVER, FOLDER
    FOLDER = tempfile.TemporaryDirectory()
    library = os.path.join(FOLDER.name, "libcuda.so.1")
    source = pathlib.Path(__file__).with_name("fake_cuda.c")
    subprocess.run([os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-o", library, str(source)], check=True)
    DRIVER = ctypes.CDLL(library)


def tearDownModule():
    FOLDER.cleanup()


def fake_cupy():
    """As much of CuPy as is used, with arrays of NumPy over the addresses."""

    class UnownedMemory:
        def __init__(self, ptr, size, owner, device_id):
            self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id

    class MemoryPointer:
        def __init__(self, mem, offset):
            self.mem, self.offset = mem, offset

    def ndarray(shape, dtype, memptr):
        size = memptr.mem.size - memptr.offset
        buffer = (ctypes.c_ubyte * size).from_address(memptr.mem.ptr + memptr.offset)
        buffer.owner = memptr.mem
        return np.ndarray(shape, dtype, buffer)

    module = types.ModuleType("cupy")
    module.ndarray = ndarray
    module.cuda = types.SimpleNamespace(UnownedMemory=UnownedMemory, MemoryPointer=MemoryPointer)
    return module


class FakeDriver(unittest.TestCase):
    def setUp(self):
        for cached in (cuda._driver, cuda._context):
            cached.cache_clear()
            self.addCleanup(cached.cache_clear)
        for patch in (
            mock.patch.object(cuda.ctypes, "CDLL", lambda name: DRIVER if name == "libcuda.so.1" else None),
            mock.patch.dict(sys.modules, {"cupy": fake_cupy()}),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        self.fail_call(b"")
        self.assertEqual(self.alive(), [0, 0, 0, 0])

    def alive(self):
        """Allocations, reserved ranges, mappings, IPC mappings."""
        return list((ctypes.c_int * 4).in_dll(DRIVER, "fake_count"))

    def fail_call(self, name):
        (ctypes.c_char * 64).in_dll(DRIVER, "fake_fail").value = name

    def synchronized(self):
        return ctypes.c_int.in_dll(DRIVER, "fake_synchronized").value


class DriverTest(FakeDriver):
    def test_import(self):
        with tempfile.TemporaryFile() as f:
            f.truncate(8192)
            address = cuda.import_fd(f.fileno(), 8192, 1, True)
            self.assertEqual(self.alive(), [0, 1, 1, 0])
            ctypes.memset(address, 7, 8192)
            self.assertEqual(f.read(), bytes([7]) * 8192)
            cuda.unmap(address, 8192, 1)
            self.assertEqual(self.alive(), [0, 0, 0, 0])
            for call in (b"cuMemImportFromShareableHandle", b"cuMemAddressReserve", b"cuMemMap", b"cuMemSetAccess"):
                self.fail_call(call)
                with self.assertRaisesRegex(cuda.CudaError, f"{call.decode()}: invalid argument"):
                    cuda.import_fd(f.fileno(), 8192, 1, True)
                self.assertEqual(self.alive(), [0, 0, 0, 0], call)

    def test_ipc(self):
        with tempfile.TemporaryFile() as f:
            f.truncate(4096)
            handle = f.fileno().to_bytes(4, "little") + bytes(59) + b"\x3f"
            address, device = cuda.open_ipc(handle, 0)
            self.assertEqual((device, self.alive()), (1, [0, 0, 0, 1]))
            ctypes.memset(address, 9, 4096)
            cuda.close_ipc(address, device)
            self.assertEqual((f.read(), self.alive()), (bytes([9]) * 4096, [0, 0, 0, 0]))

    def test_devices_are_found_by_uuid(self):
        self.assertEqual(cuda.device_with_uuid(bytes([0xE0]) * 16), 1)
        self.assertEqual(cuda.device_with_uuid(bytes([0x11]) * 16), 0)
        with self.assertRaisesRegex(cuda.CudaError, "CUDA_VISIBLE_DEVICES"):
            cuda.device_with_uuid(bytes(16))

    def test_without_a_driver(self):
        def missing(name):
            raise OSError(name)

        cuda._driver.cache_clear()
        with mock.patch.object(cuda.ctypes, "CDLL", missing), self.assertRaisesRegex(cuda.CudaError, "no CUDA driver"):
            cuda.device_with_uuid(bytes(16))

    def test_streams(self):
        before = self.synchronized()
        cuda.synchronize(1)
        cuda.synchronize(1, 0x5757)
        cuda.synchronize(1, types.SimpleNamespace(cuda_stream=0x5757))
        cuda.synchronize(1, types.SimpleNamespace(ptr=0x5757))
        self.assertEqual(self.synchronized() - before, 301)


if "GA_DEVICE_PGHOST" in os.environ:

    class FromDeviceProcess(FakeDriver):
        swarm = "python-cuda"

        def setUp(self):
            super().setUp()
            self.conn = psycopg.connect(host=os.environ["GA_DEVICE_PGHOST"], autocommit=True)
            self.addCleanup(self.conn.close)
            gpuagent.register(self.conn)
            self.one("SELECT gpuagent.delete_swarm(%s)", self.swarm)
            self.addCleanup(self.one, "SELECT gpuagent.delete_swarm(%s)", self.swarm)
            self.data = np.random.default_rng(2).standard_normal((3000, 50), dtype=np.float32)
            gpuagent.store_swarm(self.conn, self.swarm, self.data)

        def one(self, query, *params):
            return self.conn.cursor(binary=True).execute(query, params).fetchone()[0]

        def map(self, mode="r+"):
            result = gpuagent.map_swarm(self.conn, self.swarm, mode, device="cuda")
            self.addCleanup(result.close)
            return result

        def access(self):
            return ctypes.c_int.in_dll(DRIVER, "fake_access").value

        def test_in_place(self):
            with self.map() as sw:
                self.assertEqual((sw.kind, self.access()), ("cuda_fd", 3))
                self.assertRaises(TypeError, sw.numpy)
                array = sw.cupy()
                np.testing.assert_array_equal(array, self.data)
                before = self.synchronized()
                with sw.step():
                    array[5] = 1
                self.assertEqual(self.synchronized(), before + 1)
                with sw.step(stream=0x5757):
                    array[6] = 2
                self.assertEqual(self.synchronized(), before + 101)
                self.assertEqual(sw.sync(), 2)
                np.testing.assert_array_equal(self.one("SELECT gpuagent.retrieve_swarm(%s)", self.swarm), array)
                view = mapped._CudaView(sw._memory, 0, 4, (3000, 50)).__cuda_array_interface__
                self.assertEqual((view["typestr"], view["data"]), ("<i4", (array.ctypes.data, False)))
                self.assertEqual(array.base.owner.device_id, 1)
                del array
            self.assertEqual(self.alive(), [0, 0, 0, 0])

        def test_read_only(self):
            with self.map("r") as sw:
                self.assertEqual(self.access(), 1)
                np.testing.assert_array_equal(sw.cupy(), self.data)
                self.assertRaises(HandleError, sw.step)

        def test_it_lives_as_long_as_its_arrays(self):
            sw = self.map("r")
            array = sw.cupy()[7:]
            sw.close()
            self.assertEqual(self.alive(), [0, 1, 1, 0])
            np.testing.assert_array_equal(array, self.data[7:])
            del array
            gc.collect()
            self.assertEqual(self.alive(), [0, 0, 0, 0])

        def test_not_after_fork(self):
            with self.map() as sw:
                connection = os.readlink(f"/proc/self/fd/{sw._memory.connection.fileno()}")

                def child(tell):
                    for fd in map(int, os.listdir("/proc/self/fd")):
                        with contextlib.suppress(FileNotFoundError):
                            assert os.readlink(f"/proc/self/fd/{fd}") != connection, "the connection came along"
                    for use in (sw.cupy, sw.step, sw.sync, sw.revert):
                        try:
                            use()
                            tell(f"{use} works")
                        except StaleHandle:
                            pass
                    sw.close()

                pid, pipe = in_child(self, child)
                self.assertEqual((os.waitpid(pid, 0)[1], pipe.read()), (0, ""))
                with sw.step():
                    sw.cupy()[0] = 1
                self.assertEqual(sw.sync(), 2)

        def test_failures_leave_nothing(self):
            for call in (b"cuMemImportFromShareableHandle", b"cuMemMap", b"cuMemSetAccess"):
                self.fail_call(call)
                self.assertRaises(cuda.CudaError, self.map)
                gc.collect()
                self.assertEqual(self.alive(), [0, 0, 0, 0])
                self.assertEqual(self.one("SELECT count(*) FROM gpuagent.stat_handle WHERE object = %s", f"swarm:{self.swarm}"), 0)
            self.fail_call(b"")
            with self.map("r") as sw:
                np.testing.assert_array_equal(sw.cupy(), self.data)

        def test_dtypes(self):
            bits = np.arange(5000, dtype=np.uint16)
            for value, raw in ((Tensor(bits, "BF16"), bits), (np.arange(24, dtype=np.int64).reshape(2, 3, 4), None)):
                self.one("SELECT gpuagent.delete_swarm(%s)", self.swarm)
                gpuagent.store_swarm(self.conn, self.swarm, value)
                with self.map("r") as sw:
                    if raw is None:
                        np.testing.assert_array_equal(sw.cupy(), value)
                    else:
                        self.assertRaises(TypeError, sw.cupy)
                        np.testing.assert_array_equal(sw.cupy(raw=True), raw)


if __name__ == "__main__":
    unittest.main()
