"""Agents of 256 + 128 F32: bulk store, update of a generation, aligned read; and point reads."""

from __future__ import annotations

import os
import subprocess

import numpy as np
from measure import Action, Bench, Times, one, per_second

N = 10_000
PLAIN = """CREATE TABLE plain (
    id text COLLATE "C" PRIMARY KEY, state bytea, memory bytea, generation bigint NOT NULL DEFAULT 0,
    fitness double precision, metadata jsonb NOT NULL DEFAULT '{}', version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), origin uuid)"""
INDEX = "CREATE INDEX ON plain (generation, fitness DESC NULLS LAST)"


class Generation:
    """What an application holds after a generation."""

    def __init__(self, bench: Bench):
        self.ids = [f"agent/{i:05d}" for i in range(N)]
        self.states = bench.normal(N, 256)
        self.memories = bench.normal(N, 128)
        self.fitness = -np.linalg.norm(self.states, axis=1).astype(float)


def pieces(matrix: np.ndarray) -> list[bytes]:
    """The rows as bytes, which a driver without tensors sends."""
    raw, width = matrix.tobytes(), matrix.shape[1] * 4
    return [raw[i : i + width] for i in range(0, len(raw), width)]


def store_ours(conn, g: Generation) -> None:
    conn.execute(
        "SELECT gpuagent.store_agents(%b, %b, %b, generation => %s, fitness => %b)",
        (g.ids, g.states, g.memories, 1, g.fitness.tolist()),
    )


def store_copy(conn, g: Generation) -> None:
    with conn.cursor().copy("COPY plain (id, state, memory, generation, fitness) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["text", "bytea", "bytea", "int8", "float8"])
        for id, state, memory, fitness in zip(g.ids, pieces(g.states), pieces(g.memories), g.fitness.tolist()):
            copy.write_row((id, state, memory, 1, fitness))


def store_arrays(conn, g: Generation) -> None:
    conn.execute(
        "INSERT INTO plain (id, state, memory, generation, fitness)"
        " SELECT id, state, memory, 1, fitness"
        " FROM unnest(%b::text[], %b::bytea[], %b::bytea[], %b::float8[]) u(id, state, memory, fitness)",
        (g.ids, pieces(g.states), pieces(g.memories), g.fitness.tolist()),
    )


def store_executemany(conn, g: Generation) -> None:
    with conn.transaction():
        conn.cursor().executemany(
            "INSERT INTO plain (id, state, memory, generation, fitness) VALUES (%s, %b, %b, 1, %s)",
            list(zip(g.ids, pieces(g.states), pieces(g.memories), g.fitness.tolist())),
        )


def update_plain(conn, g: Generation) -> None:
    conn.execute(
        "UPDATE plain p SET state = u.state, memory = u.memory, fitness = u.fitness, version = p.version + 1,"
        " updated_at = now()"
        " FROM unnest(%b::text[], %b::bytea[], %b::bytea[], %b::float8[]) u(id, state, memory, fitness)"
        " WHERE p.id = u.id",
        (g.ids, pieces(g.states), pieces(g.memories), g.fitness.tolist()),
    )


def update_ours(conn, g: Generation) -> None:
    conn.execute(
        "SELECT gpuagent.store_agents(%b, %b, %b, fitness => %b)", (g.ids, g.states, g.memories, g.fitness.tolist())
    )


def read_ours(conn):
    ids, states, memories, fitness = one(
        conn, "SELECT ids, states, memories, fitness FROM gpuagent.retrieve_population(generation => 1)"
    )
    return ids, states, memories, np.array(fitness)


def read_plain(conn):
    rows = conn.cursor(binary=True).execute(
        "SELECT id, state, memory, fitness FROM plain WHERE generation = 1 ORDER BY id"
    )
    ids, states, memories, fitness = zip(*rows.fetchall())
    return (
        list(ids),
        np.stack([np.frombuffer(s, np.float32) for s in states]),
        np.stack([np.frombuffer(m, np.float32) for m in memories]),
        np.array(fitness),
    )


def bulk(bench: Bench) -> None:
    conn = bench.database("bench_agents")
    conn.execute(PLAIN)
    conn.execute(INDEX)
    generations = [Generation(bench) for _ in range(3)]
    turn = iter(range(1_000_000))

    def empty(table):
        conn.execute(f"TRUNCATE {table}")
        return generations[next(turn) % 3]

    def ours():
        return empty("gpuagent.agent")

    def plain():
        return empty("plain")

    t = bench.interleave(
        {
            "ours": Action(lambda g: store_ours(conn, g), ours),
            "copy": Action(lambda g: store_copy(conn, g), plain),
        }
    )
    name = "store 10,000 agents (256 + 128 F32), from the driver"
    bench.compare(name, t["ours"], t["copy"], "COPY BINARY of bytea", 1.3)
    t = bench.interleave(
        {
            "ours": Action(lambda g: store_ours(conn, g), ours),
            "arrays": Action(lambda g: store_arrays(conn, g), plain),
            "executemany": Action(lambda g: store_executemany(conn, g), plain),
        },
        5,
    )
    bench.compare("- the same against binary arrays", t["ours"], t["arrays"], "INSERT from unnest of bytea[]")
    bench.compare("- the same against executemany", t["ours"], t["executemany"], "executemany of INSERT, one transaction")

    conn.execute("TRUNCATE gpuagent.agent, plain")
    store_ours(conn, generations[0])
    store_copy(conn, generations[0])

    def vacuumed(table):
        conn.execute(f"VACUUM {table}")
        return generations[next(turn) % 3]

    t = bench.interleave(
        {
            "ours": Action(lambda g: update_ours(conn, g), lambda: vacuumed("gpuagent.agent")),
            "plain": Action(lambda g: update_plain(conn, g), lambda: vacuumed("plain")),
        }
    )
    bench.compare("update 10,000 agents (state, memory, fitness)", t["ours"], t["plain"], "UPDATE from unnest of bytea[]", 0.7)

    conn.execute("TRUNCATE gpuagent.agent, plain")
    store_ours(conn, generations[0])
    store_copy(conn, generations[0])
    conn.execute("VACUUM (ANALYZE) gpuagent.agent")
    conn.execute("VACUUM (ANALYZE) plain")
    for a, b in zip(read_ours(conn), read_plain(conn)):
        assert np.array_equal(a, b)
    t = bench.interleave(
        {"ours": Action(lambda _: read_ours(conn)), "plain": Action(lambda _: read_plain(conn))}, bench.reps * 2
    )
    bench.compare("read 10,000 agents, aligned, into NumPy", t["ours"], t["plain"], "rows of bytea + np.stack", 0.5)
    conn.close()


# ---- point reads ----

COLUMNS = "id, state, memory, generation, fitness, metadata, version, created_at, updated_at, origin"


def binary_client(bench: Bench, clients: int) -> tuple[Times, Times]:
    """Seconds per transaction of retrieve_agent and of the plain SELECT, in slices of a second or less in turns."""
    out = subprocess.run(
        [
            os.path.join(os.environ["GA_BENCH_OUT"], "point_read"),
            *(str(clients), str(bench.reps), "0.5" if bench.quick else "1.0", str(N)),
            f"SELECT {COLUMNS} FROM gpuagent.retrieve_agent($1)",
            f"SELECT {COLUMNS} FROM plain WHERE id = $1",
        ],
        env={**os.environ, "PGDATABASE": "bench_points"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ours, plain = Times(), Times()
    for line in out.splitlines():
        numbers = [float(x) for x in line.split()]
        for times, rate, cpu in zip((ours, plain), numbers, numbers[2:]):
            times.append(1 / rate)
            times.cpu.append(cpu)
    return ours, plain


def pgbench(bench: Bench, clients: int) -> tuple[list[float], list[float]]:
    """The same through pgbench, which reads text: bytes as they are, in hexadecimal."""
    folder = os.environ["GA_BENCH_OUT"]
    scripts = {
        "ours": "SELECT id, tensor_bytes(state), tensor_bytes(memory), generation, fitness, metadata, version,"
        " created_at, updated_at, origin FROM gpuagent.retrieve_agent('agent/' || to_char(:i::bigint, 'FM00000'))",
        "plain": f"SELECT {COLUMNS} FROM plain WHERE id = 'agent/' || to_char(:i::bigint, 'FM00000')",
    }
    for name, script in scripts.items():
        with open(os.path.join(folder, name + ".pgbench"), "w") as f:
            f.write(f"\\set i random(0, {N - 1})\n{script}\n")

    def slice_of(name):
        out = subprocess.run(
            [os.environ["GA_PGBENCH"], "-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2))]
            + ["-T", "1" if bench.quick else "2", "-f", os.path.join(folder, name + ".pgbench"), "bench_points"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return 1 / next(float(line.split()[2]) for line in out.splitlines() if line.startswith("tps"))

    slices = [(slice_of("ours"), slice_of("plain")) for _ in range(5)]
    return [s[0] for s in slices], [s[1] for s in slices]


def points(bench: Bench) -> None:
    conn = bench.database("bench_points")
    conn.execute(PLAIN)
    conn.execute(INDEX)
    g = Generation(bench)
    store_ours(conn, g)
    store_copy(conn, g)
    conn.execute("VACUUM (ANALYZE) gpuagent.agent")
    conn.execute("VACUUM (ANALYZE) plain")
    conn.close()
    for clients in (1, 4):
        ours, plain = binary_client(bench, clients)
        bench.compare(
            f"point read retrieve_agent, prepared, binary, c={clients}", ours, plain, "SELECT by key", 1.1, per_second
        )
    for clients in (1, 4):
        ours, plain = pgbench(bench, clients)
        bench.compare(
            f"- the same by pgbench -M prepared (hex text), c={clients}", ours, plain, "SELECT by key", 1.1, per_second
        )
