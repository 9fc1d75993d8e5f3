"""The agent cache inside one backend, and what it costs those who write."""

from __future__ import annotations

import os
import re
import subprocess

from measure import Bench, one

N = 100_000
BATCH = 200

# The loops differ in one expression. None keeps the value; the one of nothing is subtracted from the others.
LOOPS = """
CREATE FUNCTION loop_nothing(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE x text; BEGIN FOREACH x IN ARRAY ids LOOP IF x IS NULL THEN RAISE 'null'; END IF; END LOOP; END $$;
CREATE FUNCTION loop_cached(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE x text; BEGIN FOREACH x IN ARRAY ids LOOP IF gpuagent.cached_state(x) IS NULL THEN RAISE 'null'; END IF; END LOOP; END $$;
CREATE FUNCTION loop_spi(ids text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE x text; s gpuagent.agent_state;
BEGIN FOREACH x IN ARRAY ids LOOP SELECT a.state INTO s FROM gpuagent.agent a WHERE a.id = x; IF s IS NULL THEN RAISE 'null'; END IF; END LOOP; END $$;
CREATE FUNCTION batches(loop text, n bigint, size bigint, keys bigint) RETURNS float8[] LANGUAGE plpgsql AS $$
DECLARE ids text[]; start timestamptz; result float8[] := '{}';
BEGIN
    FOR b IN 0..n LOOP
        SELECT array_agg('agent/' || to_char((random() * (keys - 1))::bigint, 'FM000000')) INTO ids FROM generate_series(1, size);
        start := clock_timestamp();
        CASE loop WHEN 'nothing' THEN PERFORM loop_nothing(ids); WHEN 'cached' THEN PERFORM loop_cached(ids); ELSE PERFORM loop_spi(ids); END CASE;
        IF b > 0 THEN result := result || extract(epoch FROM clock_timestamp() - start)::float8 / size; END IF;
    END LOOP;
    RETURN result;
END $$;
"""


def microseconds(seconds: list[float]) -> str:
    """Median and 99th percentile."""
    s = sorted(seconds)
    return f"{s[len(s) // 2] * 1e6:.2f} us (p99 {s[len(s) * 99 // 100] * 1e6:.2f})"


def fill(conn) -> None:
    conn.execute(
        "INSERT INTO gpuagent.agent (id, state, memory, generation, fitness)"
        " SELECT 'agent/' || to_char(i, 'FM000000'),"
        " gpuagent.tensor('F32', '{256}', decode(repeat(lpad(to_hex(i), 8, '0'), 256), 'hex'))::gpuagent.agent_state,"
        " gpuagent.tensor('F32', '{128}', decode(repeat(lpad(to_hex(i), 8, '0'), 128), 'hex'))::gpuagent.agent_state, 1, i"
        " FROM generate_series(0, %s) i",
        (N - 1,),
    )
    conn.execute("VACUUM (ANALYZE) gpuagent.agent")


def inside(bench: Bench) -> None:
    """One backend, random ids of 100,000 agents that are all cached."""
    conn = bench.database("bench_cache")
    fill(conn)
    conn.execute(LOOPS)
    n = 100 if bench.quick else 500
    cached = one(conn, "SELECT gpuagent.cache_agents()")[0]
    assert cached == N, f"gpuagent.host_cache_size holds {cached} of {N} agents"
    times: dict[str, list[float]] = {"nothing": [], "cached": [], "spi": []}
    for _ in range(5):
        for loop, into in times.items():
            into.extend(one(conn, "SELECT batches(%s, %s, %s, %s)", (loop, n // 5, BATCH, N))[0])
    nothing = sorted(times["nothing"])[len(times["nothing"]) // 2]
    ours = [t - nothing for t in times["cached"]]
    spi = [t - nothing for t in times["spi"]]
    bench.limit("cached_state of 256 + 128 F32 in one backend, loop subtracted", ours, 1e-6, microseconds, "< 1 us")
    bench.compare("- the same against SELECT INTO in PL/pgSQL (SPI)", ours, spi, "SPI", 0.25, microseconds)
    conn.execute("SELECT gpuagent.evict_agents()")
    misses = one(conn, "SELECT batches('cached', %s, %s, %s)", (5, BATCH, N))[0]
    bench.compare("- a miss, which fills, against SPI", [t - nothing for t in misses], spi, "SPI", None, microseconds)
    conn.close()


TPCB = """\\set aid random(1, 100000)
\\set bid random(1, 1)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
\\set agent random(0, 9999)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
UPDATE gpuagent.agent SET state = n.state, version = version + 1 FROM new_state n WHERE id = 'agent/' || to_char(:agent::bigint, 'FM000000');
%s
END;
"""
READS = {
    "evicted": "SELECT octet_length(state::bytea) FROM gpuagent.agent WHERE id = 'agent/' || to_char(:agent::bigint, 'FM000000');",
    "cached": "SELECT octet_length(gpuagent.cached_state('agent/' || to_char(:agent::bigint, 'FM000000'))::bytea);",
}


def writers(bench: Bench) -> None:
    """TPC-B-like transactions that also update an agent: with all agents cached against none, then reading it too."""
    conn = bench.database("bench_cache_writers")
    fill(conn)
    conn.execute("CREATE TABLE new_state AS SELECT state FROM gpuagent.agent WHERE id = 'agent/000001'")
    folder, pgbench = os.environ["GA_BENCH_OUT"], os.environ["GA_PGBENCH"]
    subprocess.run([pgbench, "-i", "-q", "bench_cache_writers"], check=True, capture_output=True)

    def run(script: str, cached: bool) -> float:
        path = os.path.join(folder, "cache.pgbench")
        with open(path, "w") as f:
            f.write(TPCB % script)
        conn.execute("SELECT gpuagent.evict_agents()")
        if cached:
            conn.execute("SELECT gpuagent.cache_agents()")
        out = subprocess.run(
            [pgbench, "-n", "-M", "prepared", "-c", "4", "-j", "2", "-T", "2" if bench.quick else "5", "-f", path]
            + ["bench_cache_writers"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return 1 / float(re.search(r"tps = ([0-9.]+)", out).group(1))

    def per_second(seconds: list[float]) -> str:
        return f"{1 / sorted(seconds)[len(seconds) // 2]:.0f}/s"

    rounds = 3 if bench.quick else 7
    plain = [(run("", True), run("", False)) for _ in range(rounds)]
    name = "TPC-B-like + update of an agent, c=4: all agents cached"
    bench.compare(name, [p[0] for p in plain], [p[1] for p in plain], "none cached", 1 / 0.95, per_second)
    reads = [(run(READS["cached"], True), run(READS["evicted"], False)) for _ in range(rounds)]
    name = "- and reading another agent through the cache"
    bench.compare(name, [r[0] for r in reads], [r[1] for r in reads], "SELECT by key", 1 / 0.95, per_second)
    conn.close()
