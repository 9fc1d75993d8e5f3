"""Measuring, and the table. Every ratio is ours / anchor of a cost, so smaller is better and 1 is equal.

Beside the time on the clock stands the CPU time of driver and server together: on a shared machine it is the steadier
of the two, but it does not see waiting for the disk, nor that driver and server may work at once.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from typing import Any, Callable, NamedTuple

import gpuagent
import numpy as np
import psycopg


class Action(NamedTuple):
    """What is timed, and what is done before each time without being timed; prepare's result is run's argument."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


class Times(list):
    """Seconds by the clock; cpu: those that driver and server worked, where that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu: list[float] = []


class Row(NamedTuple):
    name: str
    ours: str
    anchor: str
    ratio: str
    aim: str
    verdict: str
    cpu: str = "-"


class Bench:
    """One run: its size, its random numbers, its table."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.reps = 5 if quick else 9
        self.rng = np.random.default_rng(20261122)
        self.rows: list[Row] = []
        self.measurements: dict[str, Any] = {}
        self.backend = 0

    def database(self, name: str) -> psycopg.Connection:
        """A connection, in autocommit, to a new database with the extension and its tables; CPU time is its server's."""
        with psycopg.connect(dbname="postgres", autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        conn = psycopg.connect(dbname=name, autocommit=True)
        conn.execute(f"ALTER DATABASE {name} SET search_path = public, gpuagent")
        conn.execute("SET search_path = public, gpuagent")
        conn.execute("CREATE EXTENSION gpuagent")
        conn.execute("SELECT gpuagent.setup()")
        gpuagent.register(conn)
        self.backend = conn.info.backend_pid
        return conn

    def cpu(self) -> float:
        """Seconds that this process and the server of its connection have worked."""
        try:
            with open(f"/proc/{self.backend}/schedstat") as f:
                return time.process_time() + int(f.read().split()[0]) * 1e-9
        except OSError:
            return float("nan")

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def interleave(self, actions: dict[str, Action], reps: int | None = None) -> dict[str, Times]:
        """Times of each action, repeated in turns; the order turns round each time. The first two rounds are dropped."""
        times = {name: Times() for name in actions}
        gc.disable()
        for rep in range(-2, reps or self.reps):
            order = list(actions.items())
            for name, action in order if rep % 2 else reversed(order):
                prepared = action.prepare()
                cpu, start = self.cpu(), time.perf_counter()
                action.run(prepared)
                elapsed, cpu = time.perf_counter() - start, self.cpu() - cpu
                if rep >= 0:
                    times[name].append(elapsed)
                    times[name].cpu.append(cpu)
                del prepared
            gc.collect()
        gc.enable()
        return times

    def compare(
        self,
        name: str,
        ours: list[float],
        anchor: list[float],
        anchor_name: str,
        aim: float | None = None,
        show: Callable[[list[float]], str] | None = None,
    ) -> float:
        """Enter a row about two lists of costs; aim is the largest ratio that is good enough, None: none was set."""
        show = show or milliseconds
        ratio = statistics.median(ours) / statistics.median(anchor)
        cpu = [statistics.median(t.cpu) for t in (ours, anchor) if isinstance(t, Times)]
        verdict = "-" if aim is None else "met" if ratio <= aim else "missed"
        self.enter(
            Row(
                name,
                show(ours),
                f"{show(anchor)} {anchor_name}",
                f"{ratio:.2f}",
                "none set" if aim is None else f"<= {aim:.2f}",
                verdict,
                f"{cpu[0] / cpu[1]:.2f}" if cpu and cpu[0] > 0 else "-",
            ),
            {"ours": ours, "anchor": anchor},
        )
        return ratio

    def limit(self, name: str, ours: list[float], aim: float, show: Callable[[list[float]], str], text: str) -> None:
        """Enter a row about a cost with an absolute aim."""
        verdict = "met" if statistics.median(ours) <= aim else "missed"
        self.enter(Row(name, show(ours), "-", "-", text, verdict), {"ours": ours})

    def enter(self, row: Row, measured: Any = None) -> None:
        self.rows.append(row)
        self.measurements[row.name] = measured
        print("   " + " | ".join(row), file=sys.stderr, flush=True)

    def table(self) -> str:
        rows = [Row("benchmark", "ours", "anchor", "ratio", "aim", "verdict", "CPU ratio"), *self.rows]
        widths = [max(len(r[i]) for r in rows) for i in range(len(Row._fields))]
        lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths)) + " |" for r in rows]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        return "\n".join(lines)

    def json(self) -> str:
        return json.dumps(self.measurements, indent=1)


def milliseconds(seconds: list[float]) -> str:
    """Median and smallest."""
    digits = 1 if statistics.median(seconds) >= 0.01 else 2
    return f"{statistics.median(seconds) * 1e3:.{digits}f} ms (min {min(seconds) * 1e3:.{digits}f})"


def rate(nbytes: int) -> Callable[[list[float]], str]:
    """Median and best MB/s of seconds that moved nbytes."""
    return lambda seconds: f"{nbytes / statistics.median(seconds) / 1e6:.0f} MB/s (max {nbytes / min(seconds) / 1e6:.0f})"


def per_second(seconds: list[float]) -> str:
    return f"{1 / statistics.median(seconds):.0f}/s (max {1 / min(seconds):.0f})"


def byte_count(counts: list[float]) -> str:
    return f"{statistics.median(counts) / 1e6:.3f} MB"


def one(conn: psycopg.Connection, query: str, params: Any = None, binary: bool = True) -> Any:
    """The first row of a query."""
    return conn.cursor(binary=binary).execute(query, params).fetchone()


def wal_bytes(conn: psycopg.Connection) -> int:
    return int(one(conn, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")[0])
