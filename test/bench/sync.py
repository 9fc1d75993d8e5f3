"""Write-back: what sync_swarm costs for nothing, 1 % in one stretch and 1 % scattered, against a durable write of the
bytes that changed, and how fast the memory is looked through. GA_BENCH_SYNC_MB: size of the swarm, 1024 by default."""

from __future__ import annotations

import os
import statistics
import time

import gpuagent
import numpy as np
from measure import Action, Bench, Row, milliseconds

MIB = 1 << 20
LEAF = 65536


def gigabytes(times: list[float], nbytes: int) -> str:
    return f"{nbytes / statistics.median(times) / 1e9:.1f} GB/s"


class Client:
    """A swarm that this process has mapped for writing."""

    def __init__(self, bench: Bench, conn, mb: int):
        self.bench, self.conn, self.nbytes = bench, conn, mb * MIB
        self.leaves = self.nbytes // LEAF
        piece = bench.normal(8 * MIB // 1024, 256)
        with conn.transaction():
            for _ in range(mb // 8):
                piece[:, 0] += 1
                conn.execute("SELECT gpuagent.append_swarm('live', %b)", (piece,))
        conn.execute("UPDATE gpuagent.swarm SET keep_versions = 1")
        self.handle = gpuagent.map_swarm(conn, "live", mode="r+", lease="1 h")
        self.on_host = self.handle.device == "host"
        self.array = self.handle.numpy(raw=True) if self.on_host else self.handle.cupy(raw=True)
        self.flat = self.array.reshape(-1).view(np.float32)

    def write(self, leaves: np.ndarray, amount: float | None) -> int:
        """New values, or (amount) the old ones changed by about so much; their bytes."""
        with self.handle.step():
            for leaf in leaves:
                part = self.flat[leaf * LEAF // 4 : (leaf + 1) * LEAF // 4]
                new = self.bench.normal(LEAF // 4)
                if amount is not None:
                    new = (part if self.on_host else part.get()) * (1 + amount * new)
                if self.on_host:
                    part[:] = new
                else:
                    part.set(new)
        return len(leaves) * LEAF

    def stretch(self) -> np.ndarray:
        n = self.leaves // 100
        first = int(self.bench.rng.integers(0, (self.leaves - n) // 16)) * 16
        return np.arange(first, first + n)

    def scattered(self) -> np.ndarray:
        return np.sort(self.bench.rng.choice(self.leaves, self.leaves // 100, replace=False))


def durable_file(path: str, data: bytes) -> None:
    """Writes the bytes and waits until they are on disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, data)
    os.fdatasync(fd)
    os.close(fd)


def write_back(bench: Bench) -> None:
    conn = bench.database("bench_sync")
    conn.execute("CREATE TABLE plain (n bigint NOT NULL, data bytea NOT NULL)")
    conn.execute("ALTER TABLE plain ALTER COLUMN data SET STORAGE EXTERNAL")
    client = Client(bench, conn, int(os.environ.get("GA_BENCH_SYNC_MB", "1024")))
    size, nbytes = f"{client.nbytes / 1e9:.1f} GB", client.leaves // 100 * LEAF
    path = os.path.join(os.environ["GA_BENCH_OUT"], "durable")

    def sync(_):
        client.handle.sync()

    def rows(_):
        """The write by itself: the same bytes from one table of the server into another, and their commit."""
        conn.execute("INSERT INTO plain SELECT n, data || '' FROM source")

    conn.execute("CREATE TABLE source (n bigint, data bytea)")
    conn.execute("ALTER TABLE source ALTER COLUMN data SET STORAGE EXTERNAL")
    conn.execute("INSERT INTO source SELECT i, (SELECT string_agg(sha256((i || ' ' || k)::bytea), '') FROM generate_series(1, 32768) k)"
                 " FROM generate_series(1, %s) i", (nbytes // MIB,))
    payload = bench.rng.bytes(nbytes)

    t = clean = bench.interleave({"clean": Action(sync), "read": Action(lambda _: client.flat.view(np.int32).max())}, 15)
    bench.enter(Row(f"sync of {size}, nothing changed", f"{milliseconds(t['clean'])}, {gigabytes(t['clean'], client.nbytes)}",
                    f"{gigabytes(t['read'], client.nbytes)} numpy max() of it", f"{statistics.median(t['clean']) / statistics.median(t['read']):.2f}",
                    "none set", "-"), t)
    for compression in ("on", "off"):
        conn.execute(f"SET gpuagent.compression = {compression}")
        for name, leaves, amount, aim in (("1 % in one stretch, new values", client.stretch, None, 1.5),
                                          ("1 % in one stretch, changed by 1e-3", client.stretch, 1e-3, 1.5),
                                          ("1 % scattered, new values", client.scattered, None, 4.0),
                                          ("1 % scattered, changed by 1e-3", client.scattered, 1e-3, 4.0)):
            client.write(leaves(), amount)
            start = time.perf_counter()
            client.handle.sync()
            first = time.perf_counter() - start
            t = bench.interleave({
                "sync": Action(sync, lambda: client.write(leaves(), amount)),
                "rows": Action(rows),
                "file": Action(lambda _: durable_file(path, payload)),
            }, bench.reps)
            label = f"sync of {size}, {name}, compression {compression}"
            bench.compare(label, t["sync"], t["rows"], f"INSERT of as many bytes (write and fdatasync {milliseconds(t['file'])}; first sync {first * 1e3:.0f} ms)", aim)
            scan = statistics.median(clean["clean"])
            beyond = (statistics.median(t["sync"]) - scan) / statistics.median(t["rows"])
            bench.enter(Row(f"{label}: beyond looking through the memory", milliseconds([s - scan for s in t["sync"]]), "the same", f"{beyond:.2f}", f"<= {aim:.2f}", "met" if beyond <= aim else "missed"), t)
    client.handle.close()
    conn.close()
    os.unlink(path)
