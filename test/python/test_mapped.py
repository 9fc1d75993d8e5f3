"""Mapped memory from Python: in place, never half a step, never another's, and let go of when its users are gone.

The same tests run on the host device and, where the run has such a server, on memory that a device process hands out:
there the emulated process of test/device, whose memory is a memfd instead of that of a GPU.
"""

import contextlib
import ctypes
import gc
import os
import select
import signal
import threading
import time
import unittest
from unittest import mock

import numpy as np
import psycopg
from psycopg.rows import dict_row

import gpuagent
from gpuagent import HandleError, StaleHandle, Tensor, Torn, mapped

try:
    import torch
except ImportError:
    torch = None


def in_child(test, work):
    """Runs work in a child of fork; pid, and the end of a pipe that gives what work writes."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            work(lambda text: os.write(write, text.encode()))
            status = 0
        except BaseException as e:  # noqa: BLE001
            os.write(write, repr(e).encode())
        finally:
            os._exit(status)
    os.close(write)
    pipe = os.fdopen(read)
    test.addCleanup(pipe.close)
    return pid, pipe


class MappedTest(unittest.TestCase):
    swarm = "python-mapped"
    device = None
    host = os.environ.get("PGHOST")

    def connect(self, **options):
        conn = psycopg.connect(host=self.host, autocommit=True, **options)
        self.addCleanup(conn.close)
        return conn

    def setUp(self):
        self.conn = self.connect()
        gpuagent.register(self.conn)
        self.one("SELECT gpuagent.delete_swarm(%s)", self.swarm)
        self.addCleanup(self.one, "SELECT gpuagent.delete_swarm(%s)", self.swarm)
        self.addCleanup(self.one, "SELECT gpuagent.unmap_swarm(%s)", self.swarm)
        self.wait_until(lambda: self.used() == 0)  # what an earlier test leaves takes the reaper a second
        self.data = np.random.default_rng(1).standard_normal((500, 64), dtype=np.float32)
        self.store(self.data)

    def one(self, query, *params):
        return self.conn.cursor(binary=True).execute(query, params).fetchone()[0]

    def store(self, value):
        return gpuagent.store_swarm(self.conn, self.swarm, value)

    def stored(self, version=None):
        return self.one("SELECT gpuagent.retrieve_swarm(%s, version => %s)", self.swarm, version)

    def map(self, mode="r+", **options):
        result = gpuagent.map_swarm(self.conn, self.swarm, mode, device=self.device, **options)
        self.addCleanup(result.close)
        return result

    def used(self):
        """Bytes that the server counts as memory of the swarm, or of what it was."""
        query = "SELECT coalesce(sum(used_bytes), 0)::bigint FROM gpuagent.stat_memory WHERE object = %s"
        return int(self.one(query, f"swarm:{self.swarm}"))

    def wait_until(self, condition):
        end = time.monotonic() + 180    # which only failures take
        while not condition():
            if time.monotonic() > end:
                self.fail("waited in vain")
            time.sleep(0.05)

    def test_read_only_is_read_only(self):
        with self.map("r") as sw:
            array = sw.numpy()
            np.testing.assert_array_equal(array, self.data)
            self.assertEqual((sw.object, sw.mode, sw.dtype, sw.shape, sw.version), (f"swarm:{self.swarm}", "r", "F32", (500, 64), 1))
            with self.assertRaises(ValueError):
                array[0, 0] = 1
            with self.assertRaises(HandleError):
                sw.step()
            pid, _ = in_child(self, lambda tell: ctypes.memset(array.ctypes.data, 1, 1))
            self.assertEqual(os.WTERMSIG(os.waitpid(pid, 0)[1]), signal.SIGSEGV)
            # A version is what it was, whatever happens to the swarm.
            self.store(self.data * 2)
            np.testing.assert_array_equal(array, self.data)
        self.assertRaises(ValueError, sw.numpy)
        with self.map("r", version=1) as old, self.map("r") as new:
            self.assertEqual((old.version, new.version), (1, 2))
            np.testing.assert_array_equal(new.numpy(), self.data * 2)
            np.testing.assert_array_equal(old.numpy(), self.data)

    def test_writes_are_shared_and_become_a_version(self):
        with self.map() as a, self.map() as b:
            x, y = a.numpy(), b.numpy()
            with a.step() as number:
                x[7] = 5
            self.assertEqual((number, a.steps, b.steps), (1, 1, 1))
            self.assertTrue((y[7] == 5).all())
            np.testing.assert_array_equal(self.stored(), self.data)
            self.assertEqual(a.sync({"generation": 1}), 2)
            self.assertTrue(a.synced.changed)
            self.assertEqual(a.synced.step, 1)
            self.assertGreaterEqual(a.synced.dirty_bytes, 256)
            np.testing.assert_array_equal(self.stored(), x)
            self.assertEqual(
                self.one("SELECT metadata FROM gpuagent.swarm_version WHERE swarm = %s AND version = 2", self.swarm),
                {"generation": 1},
            )
            np.testing.assert_array_equal(self.stored(1), self.data)
            # Nothing changed: nothing written.
            self.assertEqual((b.sync(), b.synced.changed, b.synced.dirty_bytes), (2, False, 0))

    def test_rolled_back_sync_is_done_again(self):
        with self.map() as sw:
            with sw.step():
                sw.numpy()[1] = 1
            with self.conn.transaction(force_rollback=True):
                self.assertEqual(sw.sync(), 2)
            np.testing.assert_array_equal(self.stored(), self.data)
            self.assertEqual((sw.sync(), sw.synced.changed), (2, True))
            np.testing.assert_array_equal(self.stored(), sw.numpy())

    def test_writers_exclude_each_other(self):
        self.store(np.zeros(1000, np.int64))

        def write(tell):
            with psycopg.connect(host=self.host, autocommit=True) as conn:
                with gpuagent.map_swarm(conn, self.swarm, "r+", device=self.device) as sw:
                    array = sw.numpy()
                    for _ in range(300):
                        with sw.step():
                            before = int(array[0])
                            array[:] = before + 1

        with self.map() as sw:
            children = [in_child(self, write) for _ in range(3)]
            with self.connect() as other, gpuagent.map_swarm(other, self.swarm, "r+", device=self.device) as mine:

                def thread():
                    for _ in range(150):
                        with mine.step():
                            mine.numpy()[:] += 1

                threads = [threading.Thread(target=thread) for _ in range(2)]
                for t in threads:
                    t.start()
                # A version never has half of a step.
                for _ in range(10):
                    sw.sync()
                    self.assertEqual(len(np.unique(self.stored())), 1)
                for t in threads:
                    t.join()
            for pid, pipe in children:
                self.assertEqual((os.waitpid(pid, 0)[1], pipe.read()), (0, ""))
            self.assertTrue((sw.numpy() == 1200).all())
            self.assertEqual(sw.steps, 1200)

    def test_autosync_makes_versions_by_itself(self):
        with self.map(autosync=True) as sw:
            for value in (1, 2):
                with sw.step():
                    sw.numpy()[:100] = value
                self.wait_until(lambda value=value: (self.stored()[:100] == value).all())
            self.assertEqual((sw.sync(), sw.synced.changed), (3, False))

    def test_steps_do_not_nest(self):
        with self.map() as sw:
            with sw.step():
                self.assertRaises(RuntimeError, sw.step().__enter__)
                self.assertRaises(RuntimeError, sw.sync)
                self.assertRaises(RuntimeError, sw.close)
                self.assertFalse(sw.torn)
                # Nor through another object: it would wait for itself.
                with self.map() as other:
                    self.assertRaises(RuntimeError, other.step().__enter__)
                    self.assertFalse(other.torn)
            self.assertFalse(sw.torn)
            self.assertEqual(sw.steps, 1)

    def die_in_a_step(self, sw):
        def die(tell):
            with sw.step():
                sw.numpy()[:250] = -1
                tell("in")
                time.sleep(60)

        pid, pipe = in_child(self, die)
        self.assertEqual(pipe.read(2), "in")
        self.assertFalse(sw.torn)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def test_a_writer_that_dies_leaves_it_torn(self):
        with self.map() as sw:
            self.die_in_a_step(sw)
            self.assertTrue(sw.torn)
            self.assertRaises(Torn, sw.sync)
            self.assertRaises(Torn, sw.step().__enter__)
            with self.assertRaises(psycopg.Error):
                self.one("SELECT version FROM gpuagent.sync_swarm(%s)", self.swarm)
            self.assertEqual(sw.revert(), 1)
            self.assertFalse(sw.torn)
            np.testing.assert_array_equal(sw.numpy(), self.data)
            with sw.step():
                sw.numpy()[0] = 3
            self.assertEqual(sw.sync(), 2)

            self.die_in_a_step(sw)
            self.assertEqual(sw.sync(force=True), 3)
            self.assertFalse(sw.torn)
            self.assertTrue((self.stored()[:250] == -1).all())

            self.die_in_a_step(sw)
            with sw.step(repair=True):
                sw.numpy()[:] = self.data
            self.assertFalse(sw.torn)
            self.assertEqual(sw.sync(), 4)
            np.testing.assert_array_equal(self.stored(), self.data)

    def test_an_exception_in_a_step_leaves_it_torn(self):
        with self.map() as sw, self.map() as other:
            with self.assertRaises(ZeroDivisionError), sw.step():
                sw.numpy()[0] = 1 / 0
            self.assertTrue(other.torn)
            self.assertRaises(Torn, other.sync)
            other.revert()
            # Who shares it has to learn that the contents went back.
            self.assertRaises(StaleHandle, sw.step().__enter__)
            with self.map() as again, again.step():
                pass
            self.assertEqual((other.sync(), other.synced.changed), (1, False))

    def test_a_restore_makes_it_stale(self):
        checkpoint = self.one("SELECT gpuagent.create_checkpoint(objects => %s)", [f"swarm:{self.swarm}"])
        self.addCleanup(self.one, "SELECT gpuagent.delete_checkpoint(%s)", checkpoint)
        with self.map() as sw:
            array = sw.numpy()
            with sw.step():
                array[:] = 9
            sw.sync()
            self.conn.execute("SELECT count(*) FROM gpuagent.restore_checkpoint(%s, safety => false)", [checkpoint])
            self.assertRaises(StaleHandle, sw.step().__enter__)
            self.assertRaises(StaleHandle, sw.sync)
            with self.assertRaises(psycopg.Error):
                self.one("SELECT version FROM gpuagent.sync_swarm(%s)", self.swarm)
            array[:] = 10  # memory that is still there, but is nobody's
            np.testing.assert_array_equal(self.stored(), self.data)
        del array
        with self.map() as sw:
            np.testing.assert_array_equal(sw.numpy(), self.data)
            with sw.step():
                sw.numpy()[0] = 1
            sw.sync()
            self.assertTrue((self.stored()[0] == 1).all())

    def test_leases(self):
        with self.map(lease=60) as kept, self.connect() as other:
            before = kept.expires_at
            self.assertGreater(kept.renew("1 hour"), before)
            with gpuagent.map_swarm(other, self.swarm, "r", lease=6, autorenew=True, device=self.device) as renewed:
                until = renewed.expires_at
                self.wait_until(lambda: renewed.expires_at > until)
                np.testing.assert_array_equal(renewed.numpy(), self.data)
                self.assertIn(renewed.handle, self.handles())
        self.assertEqual(self.handles(), [])

    def handles(self):
        rows = self.conn.execute("SELECT handle FROM gpuagent.stat_handle WHERE object = %s", [f"swarm:{self.swarm}"])
        return [handle for (handle,) in rows]

    def test_an_ended_lease_is_noticed(self):
        with self.map() as sw:
            array = sw.numpy()
            sw.renew(0.5)
            self.wait_until(lambda: not self.handles())

            def refused():
                try:
                    with sw.step():
                        return False
                except StaleHandle:
                    return True

            self.wait_until(refused)
            self.assertRaises(StaleHandle, sw.sync)
            self.assertEqual(array.shape, (500, 64))  # readable all the same

    def test_memory_lives_as_long_as_its_arrays(self):
        sw = self.map("r")
        self.assertGreaterEqual(self.used(), self.data.nbytes)
        array = sw.numpy()[10:]
        sw.close()
        self.assertEqual(self.handles(), [])
        time.sleep(2.5)  # the reaper has been there
        self.assertGreaterEqual(self.used(), self.data.nbytes)
        np.testing.assert_array_equal(array, self.data[10:])
        del array, sw
        gc.collect()
        self.doCleanups_of_maps()
        self.wait_until(lambda: self.used() == 0)

    def doCleanups_of_maps(self):
        """Forget the objects that map() keeps for the end of the test."""
        self._cleanups[:] = [c for c in self._cleanups if not isinstance(getattr(c[0], "__self__", None), gpuagent.Mapped)]

    def test_without_close_the_lease_ends_by_itself(self):
        sw = gpuagent.map_swarm(self.conn, self.swarm, device=self.device, lease=5)
        fd = sw._control.fd
        del sw
        self.assertRaises(OSError, os.fstat, fd)
        self.wait_until(lambda: self.used() == 0 and not self.handles())

    def test_a_child_has_locks_of_its_own(self):
        with self.map() as sw:
            sw.numpy()

            def child(tell):
                tell("ready ")
                with sw.step():
                    tell("written ")
                with contextlib.suppress(HandleError):
                    sw.sync()
                    tell("synced ")
                sw.close()

            with sw.step():
                pid, pipe = in_child(self, child)
                self.assertEqual(pipe.read(6), "ready ")
                self.assertEqual(select.select([pipe], [], [], 0.3)[0], [])
            self.assertEqual(os.waitpid(pid, 0)[1], 0)
            self.assertEqual(pipe.read(), "written ")
            # Neither the lease nor the connection went with the child.
            self.assertEqual(self.handles(), [sw.handle])
            self.assertEqual(sw.steps, 2)

            # A parent that dies in a step does not live on in its child.
            def parent(tell):
                with gpuagent.map_swarm(self.connect(), self.swarm, "r+", device=self.device) as own, own.step():
                    if os.fork() == 0:
                        tell("c")
                        time.sleep(3)
                        os._exit(0)
                    tell("p")
                    time.sleep(60)

            pid, pipe = in_child(self, parent)
            self.assertEqual(sorted(pipe.read(2)), ["c", "p"])
            self.assertFalse(sw.torn)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.assertTrue(sw.torn)

    def test_dtypes(self):
        for value in (
            np.array(7.5, np.float64),
            np.zeros((0, 3), np.float32),
            np.array([True, False]),
            np.arange(12, dtype=np.uint64).reshape(3, 2, 2),
            np.arange(4, dtype=np.complex64),
            np.arange(6, dtype=np.float16),
        ):
            self.one("SELECT gpuagent.delete_swarm(%s)", self.swarm)
            self.store(value)
            with self.map("r") as sw:
                self.assertEqual(sw.numpy().dtype, value.dtype)
                np.testing.assert_array_equal(sw.numpy(), value)
                if torch:
                    np.testing.assert_array_equal(sw.torch().numpy(), value)
        bits = np.arange(1000, dtype=np.uint16)
        packed = np.arange(30, dtype=np.uint8)
        for value, data in ((Tensor(bits, "BF16"), bits), (Tensor(packed, "F6_E2M3", (4, 10)), packed)):
            self.one("SELECT gpuagent.delete_swarm(%s)", self.swarm)
            self.store(value)
            with self.map() as sw:
                with self.assertRaisesRegex(TypeError, "raw=True"):
                    sw.numpy()
                np.testing.assert_array_equal(sw.numpy(raw=True), data)
                with sw.step():
                    sw.numpy(raw=True)[:] = data[::-1]
                sw.sync()
                np.testing.assert_array_equal(self.stored().data, data[::-1])
                self.assertEqual(self.stored().shape, value.shape)
                self.assertRaises(TypeError, sw.cupy)

    def test_rows_of_agents_and_queries(self):
        ids = [f"python-mapped/{i:03}" for i in range(50)]
        self.conn.execute("SELECT gpuagent.store_agents(%s, %b)", [ids, self.data[:50]])
        self.addCleanup(self.one, "SELECT gpuagent.delete_agents(prefix => 'python-mapped/')")
        query = "SELECT * FROM gpuagent.map_agents(prefix => 'python-mapped/', device => %s)"
        for factory in (psycopg.rows.tuple_row, dict_row, psycopg.rows.namedtuple_row):
            row = self.conn.cursor(row_factory=factory).execute(query, [self.device]).fetchone()
            with gpuagent.open_handle(row, self.conn) as agents:
                np.testing.assert_array_equal(agents.numpy(), self.data[:50])
                self.assertRaises(HandleError, agents.step)
        query = "SELECT state FROM gpuagent.agent WHERE id LIKE 'python-mapped/%' ORDER BY id DESC"
        row = self.conn.execute("SELECT * FROM gpuagent.map_query(%s, device => %s)", [query, self.device]).fetchone()
        with gpuagent.open_handle(row) as found:
            np.testing.assert_array_equal(found.numpy(), self.data[49::-1])
            self.assertRaises(HandleError, found.renew)
        self.one("SELECT gpuagent.unmap_handle(%s)", row[0])
        with self.assertRaises(TypeError):
            gpuagent.open_handle(row[1:])

    def test_a_failed_transaction_does_not_keep_it(self):
        with contextlib.suppress(psycopg.Error), self.conn.transaction():
            with self.map("r"):
                self.conn.execute("SELECT 1/0")
        self.assertEqual(self.handles(), [])
        with self.connect() as other:
            sw = gpuagent.map_swarm(other, self.swarm, device=self.device)
        sw.close()
        self.assertEqual(self.handles(), [])

    def test_transactions_stay_as_they_were(self):
        conn = psycopg.connect(host=self.host)
        self.addCleanup(conn.close)
        with gpuagent.map_swarm(conn, self.swarm, "r+", device=self.device) as sw:
            self.assertEqual(conn.info.transaction_status.name, "IDLE")
            with sw.step():
                sw.numpy()[0] = 1
            sw.sync()
            self.assertEqual(conn.info.transaction_status.name, "IDLE")
            self.assertTrue((self.stored()[0] == 1).all())
        self.assertEqual(conn.info.transaction_status.name, "IDLE")

    def as_another_user(self, work):
        def drop(tell):
            os.setgid(65534)
            os.setuid(65534)
            work(tell)

        pid, pipe = in_child(self, drop)
        text = pipe.read()
        self.assertEqual(os.waitpid(pid, 0)[1], 0, text)
        return text

    def test_a_client_that_empties_the_file(self):
        self.store(np.ones((100, 1000), np.float32))
        sw, other = self.map(), self.map()
        if self.device == "cuda":
            self.assertEqual(sw.kind, "cuda_fd")  # its data are in no file that a client could empty
            return
        np.memmap(sw._memory.path, np.float32, "w+", 4096, (100, 1000))
        with self.assertRaisesRegex(StaleHandle, "destroyed"), other.step():
            pass
        with self.assertRaisesRegex(StaleHandle, "destroyed"):
            sw.sync()
        again = self.map()
        with again.step():
            again.numpy()[0, 0] = 2
        self.assertEqual(again.sync(), 3)
        self.assertEqual(self.stored()[0, 0], 2)

    def test_another_user_of_the_machine_gets_nothing(self):
        if os.geteuid() != 0:  # only root can become another user
            return
        row = self.conn.execute("SELECT * FROM gpuagent.map_swarm(%s, device => %s)", [self.swarm, self.device]).fetchone()

        def attempt(tell):
            try:
                gpuagent.open_handle(row)
            except HandleError as e:
                tell(str(e))

        self.assertRegex(self.as_another_user(attempt), "operating-system user")
        self.one("SELECT gpuagent.unmap_handle(%s)", row[0])

    def test_killed_clients_leave_nothing(self):
        rng = np.random.default_rng(7)

        def client(tell):
            while True:
                with psycopg.connect(host=self.host, autocommit=True) as conn:
                    with gpuagent.map_swarm(conn, self.swarm, "r+", device=self.device, lease=10) as sw:
                        with sw.step(repair=True):
                            sw.numpy()[:] += 1
                    with gpuagent.map_swarm(conn, self.swarm, "r", device=self.device, lease=10) as sw:
                        sw.numpy().sum()

        children = [in_child(self, client) for _ in range(4)]
        for pid, _ in children:
            time.sleep(float(rng.uniform(0.05, 0.4)))
            os.kill(pid, signal.SIGKILL)
        for pid, pipe in children:
            self.assertEqual((os.waitpid(pid, 0)[1], pipe.read()), (signal.SIGKILL, ""))
        self.wait_until(lambda: self.used() == 0 and not self.handles())
        np.testing.assert_array_equal(self.stored(), self.data)


class Held:
    """A connection that closes when nobody has it any more."""

    def __init__(self, fd):
        self.fd = fd

    def __del__(self):
        os.close(self.fd)


class EmulatedMemory(mapped._HostMemory):
    """Stands for the memory of a GPU, which the emulated device process keeps in a memfd."""

    def __init__(self, fd, nbytes, uuid, writable, control, connection):
        super().__init__(f"/proc/self/fd/{fd}", 0, nbytes, writable, control)
        self.map.connection = Held(connection.detach())

    def array(self, dtype, shape, copy_on_write=False):
        return super().array(dtype, shape)


if "GA_DEVICE_PGHOST" in os.environ:

    class DeviceTest(MappedTest):
        host = os.environ["GA_DEVICE_PGHOST"]
        device = "cuda"

        def setUp(self):
            super().setUp()
            patch = mock.patch.object(mapped, "_import_fd", EmulatedMemory)
            patch.start()
            self.addCleanup(patch.stop)

        def test_the_device_process_may_die(self):
            self.store(np.zeros((2000, 64), np.float32))

            def service():
                return self.one("SELECT service_pid FROM gpuagent.stat_device WHERE device = 'cuda:0'")

            def synced():
                try:
                    return sw.sync()
                except psycopg.errors.ObjectNotInPrerequisiteState:  # one that was under way, or came too early
                    return None

            with self.map() as sw:
                array = sw.numpy()
                for i in range(3):
                    with sw.step():
                        array[i] = i + 1
                    pid = service()
                    os.kill(pid, signal.SIGKILL)
                    with sw.step():
                        array[1000 + i] = i + 1
                    self.wait_until(synced)
                    np.testing.assert_array_equal(self.stored(), array)
                    self.assertNotEqual(service(), pid)
                self.assertEqual(sw.steps, 6)
            # Held by a connection that went with the first process, and by its lock: only that counts.
            self.assertGreater(self.used(), 0)
            del array
            self.wait_until(lambda: self.used() == 0)

        def test_tokens_are_for_one_client(self):
            query = "SELECT * FROM gpuagent.map_swarm(%s, device => 'cuda')"
            row = self.conn.cursor(row_factory=dict_row).execute(query, [self.swarm]).fetchone()
            self.assertEqual((row["kind"], len(row["token"])), ("cuda_fd", 32))
            for wrong in (bytes(32), bytes(row["token"])[::-1]):
                with self.assertRaisesRegex(HandleError, "hand out"):
                    gpuagent.open_handle({**row, "token": wrong})
            with gpuagent.open_handle(row) as sw:
                np.testing.assert_array_equal(sw.numpy(), self.data)
                with self.assertRaisesRegex(HandleError, "hand out"):
                    gpuagent.open_handle(row)
            self.one("SELECT gpuagent.unmap_handle(%s)", row["handle"])


class MisusedHandles(unittest.TestCase):
    """What needs no server: handles that are not what they say."""

    def row(self, **changes):
        values = dict.fromkeys(mapped._HANDLE)
        values.update(object="swarm:x", mode="r", shape=[1], nbytes=4, dtype="F32", data_offset=4096, control_offset=0)
        return {**values, **changes}

    def test_handles(self):
        with self.assertRaises(StaleHandle):
            gpuagent.open_handle(self.row(kind="shm", path="/dev/shm/gpuagent-none/region-1"))
        with self.assertRaises(HandleError):
            gpuagent.open_handle(self.row(kind="floppy", path="/"))
        with self.assertRaisesRegex(HandleError, "control page"):
            gpuagent.open_handle(self.row(kind="shm", path=__file__))
        with self.assertRaises(StaleHandle):
            gpuagent.open_handle(self.row(kind="cuda_fd", path="/nowhere/device.sock", token=bytes(32)))


if __name__ == "__main__":
    unittest.main()
