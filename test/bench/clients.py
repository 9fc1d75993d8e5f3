"""Many clients of the device, clients that are killed, and what a fresh backend pays. The same on the host and on GPUs.

The 100 clients are those of pgbench. Memory is counted as stat_memory has it, request slots in the mapping itself.
"""

from __future__ import annotations

import glob
import mmap
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import gpuagent
import psycopg
from measure import Bench, Row, milliseconds, one

CLIENTS = 100
AGENTS = 10_000
SCRIPTS = {
    "handle on a resident swarm, and its end": """
SELECT handle FROM gpuagent.map_swarm('pop', lease => '1 min') \\gset
SELECT gpuagent.unmap_handle(:handle);
""",
    "sync_swarm, nothing changed": """
SELECT version FROM gpuagent.sync_swarm('pop');
""",
    "map_agents of the 100 best, and its end": """
SELECT handle FROM gpuagent.map_agents(best => 100, lease => '1 min') \\gset
SELECT gpuagent.unmap_handle(:handle);
""",
    "cached_state": f"""
\\set n random(0, {AGENTS - 1})
SELECT gpuagent.cached_state('agent/' || :n);
""",
}


def used(conn) -> int:
    return int(one(conn, "SELECT coalesce(sum(used_bytes), 0)::bigint FROM gpuagent.stat_memory WHERE kind <> 'cache'")[0])


def leases(conn) -> int:
    return one(conn, "SELECT count(*) FROM gpuagent.stat_handle")[0]


def busy_slots(run_directory: str) -> int:
    """Request slots that are not free, read from the mapping (src/device/protocol.h)."""
    with open(os.path.join(run_directory, "mapping"), "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        nslots, slot_bytes, offset = struct.unpack_from("=IIQ", mapping, 16)
        return sum(struct.unpack_from("=I", mapping, offset + i * slot_bytes)[0] != 0 for i in range(nslots))


def leak(conn, run_directory: str, before: int) -> str:
    """What is still there of clients that are gone, some seconds later: empty when nothing is."""
    end = time.monotonic() + 20
    while True:
        left = {
            "bytes": used(conn) - before,
            "leases": leases(conn) - 1,
            "slots": busy_slots(run_directory),
        }
        if not any(left.values()) or time.monotonic() > end:
            return ", ".join(f"{value} {name}" for name, value in left.items() if value)
        time.sleep(0.2)


class Setting:
    """A database with a swarm that is mapped for writing all the time, and cached agents."""

    def __init__(self, bench: Bench):
        self.conn = bench.database("bench_clients")
        gpuagent.store_swarm(self.conn, "pop", bench.normal(10_000, 256))
        ids = [f"agent/{i}" for i in range(AGENTS)]
        self.conn.execute("SELECT gpuagent.store_agents(%b, %b)", (ids, bench.normal(AGENTS, 256)))
        self.conn.execute("UPDATE gpuagent.agent SET fitness = hashtext(id)")
        self.conn.execute("VACUUM ANALYZE gpuagent.agent")
        self.conn.execute("SELECT gpuagent.cache_agents()")
        query = "SELECT handle, device, path FROM gpuagent.map_swarm('pop', 'r+', lease => '1 hour')"
        self.handle, self.device, path = one(self.conn, query)
        self.run_directory = os.path.dirname(path)
        self.before = used(self.conn)

    def close(self) -> None:
        self.conn.execute("SELECT gpuagent.unmap_handle(%s)", (self.handle,))
        self.conn.close()


def pgbench(script: str, clients: int, seconds: int) -> tuple[list[float], int]:
    """Latencies in seconds of all transactions, and how many failed."""
    folder = tempfile.mkdtemp()
    try:
        with open(f"{folder}/script", "w") as f:
            f.write(script)
        command = [os.environ["GA_PGBENCH"], "-n", "-c", str(clients), "-j", str(min(clients, os.cpu_count() or 1)), "-T", str(seconds)]
        command += ["-M", "prepared", "-l", f"--log-prefix={folder}/log", "-f", f"{folder}/script", "bench_clients"]
        done = subprocess.run(command, capture_output=True, text=True)
        latencies, failed = [], 0
        for name in glob.glob(f"{folder}/log*"):
            with open(name) as log:
                third = [line.split()[2] for line in log]
            latencies += [int(latency) * 1e-6 for latency in third if latency.isdigit()]
            failed += sum(not latency.isdigit() for latency in third)
        # A client whose query fails ends, and pgbench with it.
        if done.returncode != 0:
            print(done.stderr[-2000:], file=sys.stderr)
            failed += done.stderr.count("aborted") or 1
        return latencies, failed
    finally:
        shutil.rmtree(folder)


def many(bench: Bench, setting: Setting) -> None:
    for name, script in SCRIPTS.items():
        latencies, failed = pgbench(script, CLIENTS, 3 if bench.quick else 10)
        left = leak(setting.conn, setting.run_directory, setting.before)
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * p)] * 1e3 for p in (0.5, 0.99)) if latencies else (0, 0)
        bench.enter(
            Row(
                f"{CLIENTS} clients: {name} ({setting.device})",
                f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {len(latencies)} done",
                "-",
                "-",
                "no failure, no leak",
                "met" if not failed and not left and latencies else f"missed: {failed} failed; left: {left or 'nothing'}",
            ),
            {"failed": failed, "left": left, "p50_ms": p50, "p99_ms": p99, "transactions": len(latencies)},
        )


def client() -> None:
    """One that is killed somewhere in here."""
    with psycopg.connect(dbname="bench_clients", autocommit=True) as conn:
        while True:
            with gpuagent.map_swarm(conn, "pop", "r+", lease=2) as sw:
                array = sw.numpy() if sw.kind == "shm" else sw.cupy()
                for _ in range(3):
                    with sw.step(repair=True):
                        array[:100] *= 0.5
                sw.sync(force=True)
                del array
            with gpuagent.map_swarm(conn, "pop", lease=2) as sw:
                _ = sw.numpy() if sw.kind == "shm" else sw.cupy()


def kill(pid: int) -> bool:
    """True when it was still at work."""
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def kills(bench: Bench, setting: Setting) -> None:
    rng = random.Random(3)
    wanted = 20 if bench.quick else 100
    running: list[int] = []
    killed = 0
    # A process needs seconds to get to a GPU.
    shortest, longest = (0.02, 0.15) if setting.device == "host" else (0.3, 1.2)
    for n in range(wanted):
        pid = os.fork()
        if pid == 0:
            try:
                client()
            except BaseException as e:  # noqa: BLE001
                print(repr(e), file=sys.stderr, flush=True)
            finally:
                os._exit(0)
        running.append(pid)
        time.sleep(rng.uniform(shortest, longest))
        if len(running) == 8:
            killed += kill(running.pop(rng.randrange(8)))
    killed += sum(map(kill, running))
    left = leak(setting.conn, setting.run_directory, setting.before)
    bench.enter(
        Row(
            f"{wanted} clients killed at random moments, 8 at a time ({setting.device})",
            f"{killed} killed at work; left: {left or 'nothing'}",
            "-",
            "-",
            "nothing left",
            "met" if killed == wanted and not left else "missed",
        ),
        left,
    )


def context_bytes(conn) -> int:
    """Memory of GPUs that is not in regions: contexts, as the driver counts it where nvidia-smi is there."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return sum(int(line) for line in subprocess.check_output(query, text=True).split()) << 20
    return int(one(conn, "SELECT coalesce(sum(used_bytes), 0)::bigint FROM gpuagent.stat_memory WHERE kind = 'context'")[0])


def fresh_backends(bench: Bench, setting: Setting) -> None:
    first, second, conns = [], [], []
    query = "SELECT version FROM gpuagent.sync_swarm('pop')"
    with psycopg.connect(dbname="bench_clients", autocommit=True) as conn:
        conn.execute(query)  # whatever the device still has to load
    before = context_bytes(setting.conn)
    for _ in range(20 if bench.quick else 50):
        conn = psycopg.connect(dbname="bench_clients", autocommit=True)
        for times in (first, second):
            start = time.perf_counter()
            conn.execute(query)
            times.append(time.perf_counter() - start)
        conns.append(conn)
    each = (context_bytes(setting.conn) - before) / len(conns)
    for conn in conns:
        conn.close()
    extra = (statistics.median(first) - statistics.median(second)) * 1e3
    bench.enter(
        Row(
            f"first device query of a fresh backend, sync_swarm ({setting.device})",
            milliseconds(first),
            f"{milliseconds(second)} the second",
            f"{extra:+.1f} ms",
            "<= +20 ms: no context is made",
            "met" if extra <= 20 else "missed",
        ),
        {"first": first, "second": second},
    )
    bench.enter(
        Row(
            f"GPU memory for each of {len(conns)} more backends ({setting.device})",
            f"{each:.0f} bytes",
            "-",
            "-",
            "0 (a context: 500 MB)",
            "met" if abs(each) < 1 << 20 else "missed",
        ),
        each,
    )


def clients(bench: Bench) -> None:
    setting = Setting(bench)
    fresh_backends(bench, setting)
    many(bench, setting)
    kills(bench, setting)
    setting.close()
