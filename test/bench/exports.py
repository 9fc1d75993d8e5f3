"""Exports, verification and restores of gigabytes, against the disk and against the same work by a session per core.

GA_BENCH_EXPORT_MB is the size (default 2048, quick 512).  The disk's rate is that of test/bench/disk_write.c: as many
bytes into as many files, reserved first, with fsync, past the page cache and through it; the better one counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time

import numpy as np
import psycopg
from maps import Readers
from measure import Action, Bench, Row, one, rate
from safetensors.numpy import load_file, save_file

MIB = 1 << 20


def real_weights(bench: Bench, path: str, megabytes: int) -> int:
    """A file of real weights, over and over, each time with noise of 5 %: exponents stay what they are, chunks differ."""
    source = load_file(os.path.join(os.environ["GA_TEST_DATA"], "minilm-extract.safetensors"))
    base = np.concatenate([
        source["embeddings.word_embeddings.weight"].astype(np.float32).ravel(),
        source["encoder.layer.0.attention.self.query.weight"].ravel(),
    ])  # fmt: skip
    state: dict[str, np.ndarray] = {}
    left = megabytes * MIB // 4
    while left > 0:
        n = min(left, 6 * MIB + 1000 * len(state))
        layer = np.resize(base, n)
        layer *= 1 + np.float32(0.05) * bench.rng.standard_normal(n, dtype=np.float32)
        state[f"layer.{len(state):03d}"] = layer
        left -= n
    save_file(state, path)
    return sum(a.nbytes for a in state.values())


class Model:
    """An expert of real weights in a database of its own, checkpointed; what the export left is removed before each."""

    def __init__(self, bench: Bench, name: str):
        self.name = name
        self.conn = bench.database(name)
        self.cores = len(os.sched_getaffinity(0))
        self.base = one(self.conn, "SELECT gpuagent_store.storage_path()")[0]
        megabytes = int(os.environ.get("GA_BENCH_EXPORT_MB", 512 if bench.quick else 2048))
        os.makedirs(self.base, exist_ok=True)
        path = os.path.join(self.base, "bench.safetensors")
        self.nbytes = real_weights(bench, path, megabytes)
        owner = os.stat(os.path.dirname(self.base))
        for p in (self.base, path):
            os.chown(p, owner.st_uid, owner.st_gid)
        start = time.perf_counter()
        self.conn.execute("SELECT * FROM gpuagent.import_safetensors('model', 'bench')")
        self.imported = time.perf_counter() - start
        os.unlink(path)
        self.conn.execute("VACUUM ANALYZE gpuagent_store.chunk")
        self.conn.execute("CHECKPOINT")
        self.checkpoint = one(self.conn, "SELECT gpuagent.create_checkpoint('bench')")[0]
        self.use_workers(self.cores)

    def use_workers(self, workers: int) -> None:
        self.conn.execute(f"SET max_parallel_maintenance_workers = {workers}")

    def remove_export(self) -> None:
        for folder in os.listdir(os.path.join(self.base, "nvme_storage")) if self.exported() else ():
            if folder.startswith("ckpt-"):
                shutil.rmtree(os.path.join(self.base, "nvme_storage", folder))

    def exported(self) -> bool:
        return os.path.isdir(os.path.join(self.base, "nvme_storage"))

    def export(self, _: None = None) -> None:
        self.conn.execute("SELECT * FROM gpuagent.export_checkpoint(%s)", (self.checkpoint,))

    def write_plain(self, mode: str) -> float:
        """Seconds that as many bytes into a file of the same disk take."""
        out = subprocess.run(
            [os.path.join(os.environ["GA_BENCH_OUT"], "disk_write"), mode, str(self.nbytes // MIB), os.path.join(self.base, "plain")],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return float(out)

    def processor_time(self) -> float:
        """Seconds that the session and parallel workers that have ended worked."""
        postmaster = open(os.path.join(one(self.conn, "SHOW data_directory")[0], "postmaster.pid")).readline().strip()
        ticks = 0
        for pid, fields in ((postmaster, (15, 16)), (self.conn.info.backend_pid, (13, 14))):
            with open(f"/proc/{pid}/stat") as f:
                stat = ["", "", *f.read().rsplit(") ", 1)[1].split()]
            ticks += sum(int(stat[i]) for i in fields)
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.conn.close()
        shutil.rmtree(self.base)


def export(bench: Bench) -> None:
    model = Model(bench, "bench_export")
    model.use_workers(2 * model.cores)  # some wait for the disk
    t: dict[str, list[float]] = {"export": [], "direct": [], "cached": []}
    cpu = []
    for rep in range(-1, 3 if bench.quick else 5):
        for way in list(t)[:: 1 if rep % 2 else -1]:
            model.remove_export()
            worked, start = model.processor_time(), time.perf_counter()
            if way == "export":
                model.export()
            seconds = time.perf_counter() - start if way == "export" else model.write_plain(way)
            if rep >= 0:
                t[way].append(seconds)
            if way == "export":
                time.sleep(0.2)  # the postmaster collects its workers
                cpu.append((model.processor_time() - worked) / model.nbytes * 1e9)
    model.remove_export()
    for mode, name in (("direct", "written past the page cache, fsync"), ("cached", "written through the page cache, fsync")):
        bench.compare(
            f"export of {model.nbytes / 1e9:.1f} GB of real weights, {model.cores} cores",
            list(t["export"]), list(t[mode]), name, 1 / 0.7, rate(model.nbytes),
        )  # fmt: skip
    bench.enter(Row("processor time of that export", f"{np.median(cpu):.2f} s a GB (min {min(cpu):.2f})", "-", "-", "none set", "-"), cpu)
    beside_pgbench(bench, model)
    model.close()


def transactions(model: Model, seconds: float, beside) -> float:
    """TPS of pgbench -c 2 while `beside` runs again and again."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            beside()

    thread = threading.Thread(target=repeat)
    if beside is not None:
        thread.start()
    out = subprocess.run(
        [os.environ["GA_PGBENCH"], "-n", "-c", "2", "-j", "2", "-T", str(int(seconds)), "bench_tps"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    stop.set()
    if beside is not None:
        thread.join()
    return float(next(line for line in out.splitlines() if line.startswith("tps")).split()[2])


def beside_pgbench(bench: Bench, model: Model) -> None:
    """What TPC-B-like transactions lose to an export, to as many plain bytes, and to an export that keeps to a rate."""
    with psycopg.connect(dbname="postgres", autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS bench_tps")
        conn.execute("CREATE DATABASE bench_tps")
    subprocess.run([os.environ["GA_PGBENCH"], "-i", "-s", "20", "-q", "bench_tps"], check=True, capture_output=True)
    seconds = 5 if bench.quick else 10

    def exports(limit: str, workers: int):
        def run() -> None:
            model.remove_export()
            model.conn.execute(f"SET gpuagent.io_rate_limit = '{limit}'")
            model.use_workers(workers)
            model.export()

        return run

    def job() -> None:
        """As a job, at the priority of gpuagent.job_nice."""
        model.remove_export()
        queued = one(model.conn, "SELECT job FROM gpuagent.export_checkpoint(%s, wait => false)", (model.checkpoint,))[0]
        assert one(model.conn, "SELECT gpuagent.wait_for_job(%s)", (queued,))[0] == "done"

    ways = {
        "nothing": None,
        "plain": lambda: model.write_plain("cached"),
        "job": job,
        "export": exports("0", 2 * model.cores),
        "one": exports("0", 0),
        "limited": exports("40MB", 0),
    }
    if bench.quick:
        del ways["one"]
    tps: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(2):
        for name, way in ways.items():
            tps[name].append(transactions(model, seconds, way))
    median = {name: float(np.median(values)) for name, values in tps.items()}
    nice = one(model.conn, "SHOW gpuagent.job_nice")[0]
    names = {"job": f"while a job exports, job_nice = {nice}", "export": "while a session exports", "one": "the same by one process", "limited": "the same at io_rate_limit = 40MB"}
    for name, text in names.items():
        if name not in tps:
            continue
        loss = 1 - median[name] / median["plain"]
        bench.enter(
            Row(f"pgbench -c 2 {text}", f"{median[name]:.0f} TPS",
                f"{median['plain']:.0f} TPS while dd writes as many bytes; {median['nothing']:.0f} alone", f"{loss:+.1%}", "<= 5 % lost",
                "met" if loss <= 0.05 else "missed"),
            tps,
        )  # fmt: skip
    with psycopg.connect(dbname="postgres", autocommit=True) as conn:
        conn.execute("DROP DATABASE bench_tps")


def restore(bench: Bench) -> None:
    """Verification and restore against a session per core that reads, decompresses and hashes every chunk."""
    model = Model(bench, "bench_restore")
    conn = model.conn
    hashes = [bytes(h) for h, in conn.cursor(binary=True).execute("SELECT weights FROM gpuagent.weight_version ORDER BY layer")]

    def change(_=None) -> None:
        """A later version of each layer, so that the restore has something to go back from."""
        conn.execute(
            "SELECT gpuagent.store_weights('model', layer, '[1]') FROM gpuagent.weight_version WHERE version = 1 ORDER BY layer"
        )

    hashers = Hashers("bench_restore", hashes, model.cores)
    t = bench.interleave(
        {
            "restore": Action(
                lambda _: conn.execute("SELECT count(*) FROM gpuagent.restore_checkpoint(%s, safety => false)", (model.checkpoint,)),
                change,
            ),
            "verify": Action(lambda _: conn.execute("SELECT count(*) FROM gpuagent.verify_integrity('full', checkpoint => %s)", (model.checkpoint,))),
            "hash": Action(hashers.run),
        },
        3 if bench.quick else 5,
    )  # fmt: skip
    anchor = f"read, decompressed and hashed by {model.cores} sessions"
    for name, text in (("restore", "restore"), ("verify", "verify_integrity('full')")):
        bench.compare(
            f"{text} of {model.nbytes / 1e9:.1f} GB of real weights", list(t[name]), list(t["hash"]), anchor, 1 / 0.7, rate(model.nbytes)
        )
    hashers.close()
    bench.enter(Row(f"import_safetensors of {model.nbytes / 1e9:.1f} GB", f"{model.nbytes / model.imported / 1e6:.0f} MB/s", "-", "-", "none set", "-"))
    model.close()


class Hashers(Readers):
    """As many sessions as there are cores check a tensor after the other with tensor_problem()."""

    def __init__(self, database: str, tensors: list[bytes], cores: int):
        self.tensors = tensors
        self.sessions = [psycopg.connect(dbname=database, autocommit=True) for _ in range(cores)]

    def work(self, conn, left) -> None:
        while left:
            try:
                tensor = left.pop()
            except IndexError:
                return
            assert one(conn, "SELECT gpuagent_store.tensor_problem(%s)", (tensor,))[0] is None

    def run(self, _: None) -> None:
        left = list(self.tensors)
        threads = [threading.Thread(target=self.work, args=(conn, left)) for conn in self.sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
