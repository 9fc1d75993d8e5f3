"""gpuknn with its index on a GPU: 1,000,000 x 768 F16, normal, the ten nearest by L2.

One client and many of pgbench, prepared, over a unix socket; against torch in this process on the same GPU: mm and topk
of F16, the same vectors, which gives approximate distances. What a kill of the device process costs; how long the copy
of the index takes. The table is unlogged, so that it is loaded in no time; scans do not know.

GA_BENCH_KNN_ROWS, GA_BENCH_KNN_DIM: sizes. GA_BENCH_KNN_SECONDS: of each run of pgbench.
"""

from __future__ import annotations

import glob
import multiprocessing
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import gpuagent
import numpy as np
import psycopg
from gpuagent import Tensor
from measure import Bench, Row, milliseconds, one

ROWS = int(os.environ.get("GA_BENCH_KNN_ROWS", 1_000_000))
DIM = int(os.environ.get("GA_BENCH_KNN_DIM", 768))
SECONDS = int(os.environ.get("GA_BENCH_KNN_SECONDS", 5))
QUERIES = 512
CLIENTS = 64
DATABASE = "bench_knn_device"
SCRIPT = f"""
\\set n random(1, {QUERIES})
SELECT id FROM item ORDER BY e <-> (SELECT e FROM query WHERE id = :n) LIMIT 10;
"""
LAST = "SELECT device, rows, batch, catchup_ms, device_ms, queue_ms, rechecks, fallback_reason FROM last_query()"


def knn_device(bench: Bench) -> None:
    conn = bench.database(DATABASE)
    device = one(conn, "SELECT device FROM gpuagent.stat_device ORDER BY device = 'host' LIMIT 1")[0]
    if device == "host":
        print("no GPU serves: no index is searched there", file=sys.stderr)
        conn.close()
        return
    load(conn)
    conn.execute("SET enable_seqscan = off; SET enable_sort = off")
    first_scans(bench, conn)
    device_times(bench, conn)
    alone = clients(bench, 1)
    anchor(bench, conn, alone)
    many = clients(bench, CLIENTS)
    if alone and many:
        ratio = many["tps"] / alone["tps"]
        bench.enter(Row(f"queries a second, {CLIENTS} clients against one", f"{many['tps']:.0f}", f"{alone['tps']:.0f}",
                        f"{ratio:.1f} times", ">= 10 times", "met" if ratio >= 10 else "missed"), [alone, many])
    killed(bench, conn)
    counts = one(conn, "SELECT scans_device, scans_host, fallbacks, last_fallback_reason FROM stat_index WHERE index = 'item_e'::regclass")
    print(f"   scans by the device {counts[0]}, by the host {counts[1]}, fallbacks {counts[2]} ({counts[3]})", file=sys.stderr)
    conn.close()


def wire_prefix() -> bytes:
    """What stands before the elements, little-endian, in the wire format of an F16 vector."""
    conn = psycopg.connect(dbname=DATABASE, autocommit=True)
    gpuagent.register(conn)
    values = np.arange(1, DIM + 1, dtype=np.float16)
    value = bytes(one(conn, "SELECT gpuagent.embedding_send(%b)", (Tensor(values, type="embedding"),))[0])
    conn.close()
    assert value.endswith(values.tobytes()), "the wire format is another one"
    return value[: -2 * DIM]


def send(part: tuple[str, int, int, bytes]) -> None:
    """Copies rows first + 1 .. last; each process has a connection of its own."""
    table, first, last, prefix = part
    head = struct.pack("!hiq", 2, 8, 0)[:-8]
    middle = struct.pack("!i", len(prefix) + 2 * DIM) + prefix
    row = np.dtype([("head", f"V{len(head)}"), ("id", ">i8"), ("middle", f"V{len(middle)}"), ("e", "<f2", DIM)])
    rng = np.random.default_rng([first, len(table)])
    with psycopg.connect(dbname=DATABASE) as conn, conn.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0))
        for start in range(first, last, 4096):
            n = min(4096, last - start)
            rows = np.empty(n, row)
            rows["head"] = np.void(head)
            rows["middle"] = np.void(middle)
            rows["id"] = np.arange(start + 1, start + n + 1)
            rows["e"] = rng.standard_normal((n, DIM), dtype=np.float32)
            copy.write(rows.tobytes())
        copy.write(struct.pack("!h", -1))


def load(conn) -> None:
    start = time.perf_counter()
    conn.execute(f"CREATE UNLOGGED TABLE item (id bigint, e embedding({DIM}))")
    conn.execute(f"CREATE TABLE query (id bigint PRIMARY KEY, e embedding({DIM}))")
    conn.execute("ALTER TABLE item ALTER e SET STORAGE plain" if DIM <= 3800 else "SELECT")
    prefix = wire_prefix()
    workers = max(min(os.cpu_count() or 1, 16), 1)
    bounds = [ROWS * i // workers for i in range(workers + 1)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(send, [("item", a, b, prefix) for a, b in zip(bounds, bounds[1:])], chunksize=1)
    send(("query", 0, QUERIES, prefix))
    loaded = time.perf_counter()
    conn.execute(f"SET max_parallel_maintenance_workers = {workers}; SET maintenance_work_mem = '1GB'")
    conn.execute("CREATE INDEX item_e ON item USING gpuknn (e embedding_l2_ops)")
    built = time.perf_counter()
    conn.execute("ANALYZE item; ANALYZE query")
    print(f"   {ROWS:,} x {DIM}: loaded in {loaded - start:.1f} s, index built in {built - loaded:.1f} s", file=sys.stderr)


def nearest(conn, n: int) -> list[int]:
    return [r[0] for r in conn.execute("SELECT id FROM item ORDER BY e <-> (SELECT e FROM query WHERE id = %s) LIMIT 10", (n,))]


def first_scans(bench: Bench, conn) -> None:
    """The first scan makes the copy; its answer, and others', are those of a sort."""
    start = time.perf_counter()
    nearest(conn, 1)
    elapsed = time.perf_counter() - start
    last = one(conn, LAST)
    gigabytes = one(conn, "SELECT pg_relation_size('item_e')")[0] / 1e9
    bench.limit(f"first scan, which copies {gigabytes:.2f} GB to {last[0]}", [elapsed], 3.0,
                lambda t: f"{t[0]:.2f} s ({gigabytes / max(last[3] / 1e3, 1e-9):.1f} GB/s)", "<= 3 s")
    by_device = [nearest(conn, n) for n in range(1, 4)]
    last = one(conn, LAST)
    conn.execute("SET enable_indexscan = off; SET enable_seqscan = on; SET enable_sort = on; SET max_parallel_workers_per_gather = 8")
    assert by_device == [nearest(conn, n) for n in range(1, 4)], "the device found other rows than a sort"
    conn.execute("SET enable_indexscan = on; SET enable_seqscan = off; SET enable_sort = off")
    assert last[0] != "host", f"the host answered: {last[7]}"


def device_times(bench: Bench, conn) -> None:
    """Of scans one after the other: what the device says that they took of it."""
    times, queues, rechecks = [], [], []
    end = time.perf_counter() + SECONDS / 2
    while len(times) < 200 and (time.perf_counter() < end or not times):
        nearest(conn, 1 + len(times) % QUERIES)
        last = one(conn, LAST)
        times.append(last[4] / 1e3)
        queues.append(last[5])
        rechecks.append(last[6])
    rate = ROWS * (2 * DIM + 16) / statistics.median(times) / 1e12
    bench.enter(Row(f"the device's part of a scan of {ROWS:,} x {DIM}", f"{milliseconds(times)}, {rate:.2f} TB/s", "-", "-", ">= 4 TB/s",
                    "met" if rate >= 4 else "missed"), times)
    print(f"   it waited {statistics.median(queues):.3f} ms before; {statistics.median(rechecks):.0f} rows were checked", file=sys.stderr)


def clients(bench: Bench, n: int) -> dict[str, float] | None:
    """pgbench: transactions a second and percentiles in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "script"), "w") as f:
            f.write(SCRIPT)
        environment = {**os.environ, "PGOPTIONS": "-c enable_seqscan=off -c enable_sort=off"}
        done = subprocess.run(
            [os.environ["GA_PGBENCH"], "-n", "-M", "prepared", "-c", str(n), "-j", str(min(n, 8)), "-T", str(SECONDS), "-l",
             "--log-prefix", os.path.join(folder, "log"), "-f", os.path.join(folder, "script"), DATABASE],
            capture_output=True, text=True, env=environment,
        )
        if done.returncode != 0:
            print(f"   pgbench failed: {done.stderr[-500:]}", file=sys.stderr)
            return None
        latencies = []
        for name in glob.glob(os.path.join(folder, "log.*")):
            with open(name) as f:
                latencies += [int(line.split()[2]) / 1e6 for line in f]
    latencies.sort()
    result = {"tps": len(latencies) / SECONDS, "p50": latencies[len(latencies) // 2], "p99": latencies[int(len(latencies) * 0.99)]}
    bench.enter(Row(f"10 nearest of {ROWS:,} x {DIM} by pgbench, {n} client{'s' if n > 1 else ''}",
                    f"p50 {result['p50'] * 1e3:.3f} ms, p99 {result['p99'] * 1e3:.3f} ms, {result['tps']:.0f} a second", "-", "-", "none set", "-"), result)
    return result


def anchor(bench: Bench, conn, alone: dict[str, float] | None) -> None:
    """torch, from 1 to 1,024 queries: |x|^2 - 2 x q by mm, then topk. Where there is knn_join, the same by it."""
    try:
        import torch
    except ImportError:
        torch = None
    if torch is None or not torch.cuda.is_available():
        print("   no anchor here (torch with CUDA)", file=sys.stderr)
    join = conn.execute("SELECT to_regprocedure('gpuagent.knn_join(regclass, swarm_tensor, bigint)') IS NOT NULL").fetchone()[0]
    x = norms = None
    if torch is not None and torch.cuda.is_available():
        x = torch.randn(ROWS, DIM, device="cuda", dtype=torch.float16)
        norms = (x.float() ** 2).sum(1).half()
    for n in (1, 16, 64, 256, 1024):
        theirs = torch_times(torch, x, norms, n) if x is not None else None
        if n == 1 and alone is not None:
            ours = [alone["p50"]]
            name = "10 nearest, one query"
        elif n > 1 and join:
            ours = join_times(bench, conn, n)
            name = f"10 nearest of each of {n:,} queries, knn_join"
        else:
            continue
        if theirs is None:
            bench.enter(Row(name, milliseconds(ours), "no anchor here (torch)", "-", "none set", "-"), ours)
        else:
            bench.compare(name, ours, theirs, "torch mm + topk, F16", 2.0 if n == 1 else 1.0)
    del x, norms
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def torch_times(torch, x, norms, n: int) -> list[float]:
    times = []
    for _ in range(12):
        q = torch.randn(n, DIM, device="cuda", dtype=torch.float16)
        torch.cuda.synchronize()
        start = time.perf_counter()
        score = torch.mm(q, x.T)
        if n == 1:
            score = norms - 2 * score
        torch.topk(score, 10, largest=n > 1)[1].cpu()
        times.append(time.perf_counter() - start)
        del score
    return times[3:]


def join_times(bench: Bench, conn, n: int) -> list[float]:
    times = []
    for _ in range(4):
        queries = Tensor(bench.normal(n, DIM).astype(np.float16), type="swarm_tensor")
        start = time.perf_counter()
        rows = conn.execute("SELECT query, tid, distance FROM gpuagent.knn_join('item_e', %b, 10)", (queries,)).fetchall()
        times.append(time.perf_counter() - start)
        assert len(rows) == 10 * n
        if times[-1] > 3:
            break
    return times[1:] or times


def killed(bench: Bench, conn) -> None:
    """Queries go on while the device process is killed: until when are they the host's, and does one fail?"""
    nearest(conn, 1)
    expected = nearest(conn, 2)
    os.kill(one(conn, "SELECT service_pid FROM gpuagent.stat_device WHERE device <> 'host' LIMIT 1")[0], signal.SIGKILL)
    start = time.perf_counter()
    host = 0
    while time.perf_counter() - start < 60:
        assert nearest(conn, 2) == expected
        if one(conn, LAST)[0] != "host":
            break
        host += 1
    elapsed = time.perf_counter() - start
    bench.limit("kill -9 of gpuagent_device until a scan is the device's again", [elapsed], 3.0,
                lambda t: f"{t[0]:.2f} s, {host} scans by the host before", "<= 3 s")
