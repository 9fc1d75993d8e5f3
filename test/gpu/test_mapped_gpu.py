"""Mapped memory of a real GPU from Python, with CuPy and PyTorch, and the example on both.

For a server with gpuagent.device = cuda that PGHOST and PGDATABASE name, and a database with the extension; by hand:
    cd test/gpu && PYTHONPATH=../../python PGHOST=.. PGUSER=postgres PGDATABASE=app python3 -m unittest -v test_mapped_gpu
What needs no GPU is in test/python/test_mapped.py.
"""

import gc
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest

import cupy
import numpy as np
import psycopg
import torch

import gpuagent
from gpuagent import HandleError, Tensor, Torn

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRELUDE = """
import os, signal, sys, cupy, psycopg, torch, gpuagent
conn = psycopg.connect(autocommit=True)
def opened(mode): return gpuagent.map_swarm(conn, "gpu-mapped", mode, device="cuda")
"""


class GpuTest(unittest.TestCase):
    swarm = "gpu-mapped"

    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)
        gpuagent.register(self.conn)
        self.one("SELECT gpuagent.delete_swarm(%s)", self.swarm)
        self.addCleanup(self.one, "SELECT gpuagent.delete_swarm(%s)", self.swarm)
        self.addCleanup(self.one, "SELECT gpuagent.unmap_swarm(%s)", self.swarm)
        self.data = np.random.default_rng(1).standard_normal((5000, 64), dtype=np.float32)
        gpuagent.store_swarm(self.conn, self.swarm, self.data)

    def one(self, query, *params):
        return self.conn.cursor(binary=True).execute(query, params).fetchone()[0]

    def stored(self):
        return self.one("SELECT gpuagent.retrieve_swarm(%s)", self.swarm)

    def map(self, mode="r+", device="cuda", **options):
        result = gpuagent.map_swarm(self.conn, self.swarm, mode, device=device, **options)
        self.addCleanup(result.close)
        return result

    def child(self, code, **options):
        """A process of its own: CUDA does not survive a fork."""
        return subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def used(self):
        return int(self.one("SELECT coalesce(sum(used_bytes), 0)::bigint FROM gpuagent.stat_memory WHERE kind = 'swarm'"))

    def wait_until(self, condition, seconds=15):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, "waited in vain")
            time.sleep(0.1)

    def test_cupy_and_torch_share_it(self):
        with self.map() as a, self.map() as b:
            self.assertEqual(a.kind, "cuda_fd")
            self.assertRaises(TypeError, a.numpy)
            x, y = a.cupy(), b.torch()
            np.testing.assert_array_equal(cupy.asnumpy(x), self.data)
            np.testing.assert_array_equal(y.cpu().numpy(), self.data)
            with a.step():
                x[7] = 5
            self.assertTrue(bool((y[7] == 5).all()))
            with b.step(stream=torch.cuda.current_stream()):
                y[8:10] += 1
            self.assertEqual((b.sync(), b.synced.changed, b.synced.step), (2, True, 2))
            np.testing.assert_array_equal(self.stored(), cupy.asnumpy(x))
            self.assertEqual((a.sync(), a.synced.changed), (2, False))
            self.assertEqual(a.torch().data_ptr(), x.data.ptr)

    def test_dtypes(self):
        bits = np.arange(0, 60000, 7, dtype=np.uint16)
        eight = np.arange(256, dtype=np.uint8)
        for value, dtype, raw in (
            (Tensor(bits, "BF16"), torch.bfloat16, bits),
            (Tensor(eight, "F8_E4M3"), torch.float8_e4m3fn, eight),
            (np.arange(9, dtype=np.float64).reshape(3, 3), torch.float64, None),
            (np.array([True, False, True]), torch.bool, None),
            (np.arange(5, dtype=np.complex64), torch.complex64, None),
            (np.array(3, np.int64), torch.int64, None),
            (np.zeros((0, 4), np.float16), torch.float16, None),
        ):
            self.one("SELECT gpuagent.delete_swarm(%s)", self.swarm)
            gpuagent.store_swarm(self.conn, self.swarm, value)
            with self.map("r") as sw:
                tensor = sw.torch()
                self.assertEqual((tensor.dtype, tuple(tensor.shape)), (dtype, value.shape))
                if raw is None:
                    np.testing.assert_array_equal(tensor.cpu().numpy(), value)
                    np.testing.assert_array_equal(cupy.asnumpy(sw.cupy()), value)
                else:
                    self.assertRaises(TypeError, sw.cupy)
                    np.testing.assert_array_equal(cupy.asnumpy(sw.cupy(raw=True)), raw)
                    self.assertEqual(Tensor(tensor), value)

    def test_read_only_memory_cannot_be_written(self):
        with self.map("r") as sw:
            self.assertRaises(HandleError, sw.step)
            for write in ("sw.cupy()[:] = 1; cupy.cuda.Device().synchronize()", "sw.torch().fill_(1); torch.cuda.synchronize()"):
                child = self.child(f"sw = opened('r')\n{write}")
                self.assertNotEqual(child.wait(60), 0)
                child.communicate()
            np.testing.assert_array_equal(cupy.asnumpy(sw.cupy()), self.data)

    def test_processes_exclude_each_other(self):
        gpuagent.store_swarm(self.conn, self.swarm, np.zeros((1000, 10), np.float32))
        code = "sw = opened('r+'); t = sw.{}()\nfor _ in range(200):\n    with sw.step(): t[:] = t[0, 0] + 1\n"
        with self.map() as sw:
            children = [self.child(code.format(f)) for f in ("cupy", "torch", "cupy")]
            versions = 0
            while any(c.poll() is None for c in children):
                versions = sw.sync()
                self.assertEqual(len(np.unique(self.stored())), 1)
            for c in children:
                self.assertEqual(c.returncode, 0, c.communicate()[1])
                c.communicate()
            self.assertTrue(bool((sw.torch() == 600).all()))
            self.assertGreater(versions, 1)

    def test_a_writer_that_dies_leaves_it_torn(self):
        with self.map() as sw:
            child = self.child(
                "sw = opened('r+'); x = sw.cupy()\nwith sw.step():\n    x[:100] = -1; cupy.cuda.Device().synchronize()\n"
                "    print('in', flush=True); signal.pause()"
            )
            self.assertEqual(child.stdout.readline(), "in\n")
            self.assertFalse(sw.torn)
            child.kill()
            child.communicate()
            self.assertTrue(sw.torn)
            self.assertRaises(Torn, sw.sync)
            sw.revert()
            np.testing.assert_array_equal(cupy.asnumpy(sw.cupy()), self.data)
            with sw.step():
                sw.cupy()[0] = 3
            self.assertEqual(sw.sync(), 2)

    def test_memory_goes_with_its_last_array(self):
        before = self.used()
        sw = self.map("r")
        x, y = sw.cupy(), sw.torch()
        sw.close()
        time.sleep(2.5)
        self.assertGreater(self.used(), before)
        np.testing.assert_array_equal(y.cpu().numpy(), self.data)
        np.testing.assert_array_equal(cupy.asnumpy(x), self.data)
        del x, y
        gc.collect()
        self.wait_until(lambda: self.used() == before)

    def test_killed_clients_leave_nothing(self):
        before = self.used()
        children = [self.child("sw = opened('r+'); x = sw.torch()\nwhile True:\n    with sw.step(repair=True): x.add_(1)") for _ in range(4)]
        time.sleep(6)
        for c in children:
            self.assertIsNone(c.poll())
            c.kill()
            c.communicate()
        self.one("SELECT gpuagent.unmap_swarm(%s)", self.swarm)
        self.wait_until(lambda: self.used() == before)

    def test_ipc_handles_where_they_are_allowed(self):
        with self.assertRaises(psycopg.Error):
            self.map(device="cuda/ipc")
        self.conn.execute("ALTER SYSTEM SET gpuagent.allow_ipc_handles = on")
        self.addCleanup(self.conn.execute, "SELECT pg_reload_conf()")
        self.addCleanup(self.conn.execute, "ALTER SYSTEM RESET gpuagent.allow_ipc_handles")
        self.conn.execute("SELECT pg_reload_conf()")
        self.wait_until(lambda: self.one("SHOW gpuagent.allow_ipc_handles") == "on")
        with self.map(device="cuda/ipc") as sw:
            self.assertEqual(sw.kind, "cuda_ipc")
            x = sw.cupy()
            np.testing.assert_array_equal(cupy.asnumpy(x), self.data)
            with sw.step():
                x[3] = 4
            self.assertEqual(sw.sync(), 2)
            np.testing.assert_array_equal(self.stored(), cupy.asnumpy(x))
            del x

    def test_time_to_open(self):
        """Printed; doc/performance.md has the figures."""
        with self.map():
            times = []
            for _ in range(50):
                start = time.perf_counter()
                with gpuagent.map_swarm(self.conn, self.swarm, "r+", device="cuda") as sw:
                    sw.cupy()
                    times.append(time.perf_counter() - start)
            with self.map() as sw:
                start = time.perf_counter()
                for _ in range(1000):
                    with sw.step():
                        pass
                step = (time.perf_counter() - start) / 1000
        print(f"\nmap_swarm to cupy.ndarray, resident: {statistics.median(times) * 1e3:.2f} ms; empty step: {step * 1e6:.1f} µs")

    def test_example(self):
        for framework in ("cupy", "torch"):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, str(ROOT / "doc/examples/evolve.py"), "--swarm", f"gpu-evolve-{framework}"]
                command += ["--framework", framework, "--device", "cuda", "--generations", "12", "--curve", f"{folder}/c.png"]
                output = ""
                for last in (False, True):  # killed once
                    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                    if not last:
                        for _ in range(5):
                            process.stdout.readline()
                        process.send_signal(signal.SIGKILL)
                    output = process.communicate(timeout=300)[0]
                print("\n" + output)
                self.assertEqual(process.returncode, 0, output)
                self.assertRegex(output, f"resumed at generation [1-9].*{framework}")
                self.assertGreater(float(re.search(r"mean return ([\d.]+)", output).group(1)), 450)
                self.assertGreater(os.path.getsize(f"{folder}/c.png"), 1000)


if __name__ == "__main__":
    unittest.main()
