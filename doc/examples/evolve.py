"""Neuro-evolution of a controller for cart-pole on a swarm that is mapped in place.

    PYTHONPATH=python python3 doc/examples/evolve.py --conninfo "dbname=app" --curve evolve.png

The population is the swarm: one row of weights per controller. The program maps it for writing, breeds the next
generation in place inside step(), and makes each generation a version with sync(), in one transaction with its metrics;
every few generations that transaction makes a checkpoint too. What it must know to go on is in the version's metadata:
started again after a SIGKILL at any moment it continues with the last committed generation, and since each generation
draws its random numbers from (seed, generation), it ends with the same bits as a run that was never interrupted.

The controller is a network 4-H-1 with tanh; cart-pole is that of Gymnasium's CartPole-v1 (Euler steps of 20 ms, 500 of
them at most, a reward of 1 for each), for all controllers and episodes at once. It runs on NumPy where the swarm is in
memory of the host, on CuPy or PyTorch where it is in memory of a GPU, and needs a role with the levels write
and map (grant_access).
"""

from __future__ import annotations

import argparse
import math
import struct
import sys
import time
import zlib
from typing import Any

import gpuagent
import numpy as np
import psycopg
from psycopg.types.json import Jsonb

STEPS = 500  # of an episode


# ---- where arrays are ----


class Arrays:
    """NumPy, CuPy or PyTorch, behind the few names that they share."""

    def __init__(self, mapped: gpuagent.Mapped, framework: str):
        if mapped.kind == "shm":
            self.xp, self.population = np, mapped.numpy()
            return
        if framework != "torch":
            try:
                import cupy

                self.xp, self.population = cupy, mapped.cupy()
                return
            except ImportError:
                if framework == "cupy":
                    raise
        import torch

        self.xp, self.population = torch, mapped.torch()

    @property
    def name(self) -> str:
        return self.xp.__name__

    def put(self, array: np.ndarray) -> Any:
        if self.name == "torch":
            return self.xp.from_numpy(array).to(self.population.device)
        return self.xp.asarray(array)

    def get(self, array: Any) -> np.ndarray:
        if self.name == "torch":
            return array.cpu().numpy()
        return array if self.name == "numpy" else self.xp.asnumpy(array)


# ---- cart-pole ----


def network(xp: Any, population: Any, hidden: int) -> Any:
    """The function from observations (controllers, episodes, 4) to "push right" (controllers, episodes)."""
    n = len(population)
    into = population[:, : 4 * hidden].reshape(n, 4, hidden)
    bias = population[:, 4 * hidden : 5 * hidden].reshape(n, 1, hidden)
    out = population[:, 5 * hidden : 6 * hidden].reshape(n, hidden, 1)
    return lambda seen: (xp.tanh(seen @ into + bias) @ out).reshape(n, -1) > 0


def returns(arrays: Arrays, population: Any, hidden: int, starts: np.ndarray) -> np.ndarray:
    """The return of every controller (rows) in every episode (columns), of which starts has the states."""
    xp = arrays.xp
    act = network(xp, population, hidden)
    state = arrays.put(np.repeat(starts.astype(np.float32)[None], len(population), axis=0))
    x, v, angle, spin = (state[:, :, i] for i in range(4))
    alive = abs(x) <= 2.4
    total = x * 0
    for step in range(STEPS):
        total = total + alive
        force = xp.where(act(xp.stack([x, v, angle, spin], -1)), x * 0 + 10, x * 0 - 10)
        sin, cos = xp.sin(angle), xp.cos(angle)
        push = (force + 0.05 * spin * spin * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos * cos / 1.1))
        x, v = x + 0.02 * v, v + 0.02 * (push - 0.05 * turn * cos / 1.1)
        angle, spin = angle + 0.02 * spin, spin + 0.02 * turn
        alive = alive & (abs(x) <= 2.4) & (abs(angle) <= 12 * 2 * math.pi / 360)
        if step % 10 == 9 and not bool(alive.any()):
            break
    return arrays.get(total)


def random_numbers(seed: int, generation: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, generation, purpose])


def starting_states(seed: int, generation: int, episodes: int, purpose: int = 0) -> np.ndarray:
    return random_numbers(seed, generation, purpose).uniform(-0.05, 0.05, (episodes, 4))


def breed(arrays: Arrays, fitness: np.ndarray, seed: int, generation: int, sigma: float) -> None:
    """In place: the best eighth stays where it is, every other row becomes a changed copy of one of the best quarter."""
    n, width = arrays.population.shape
    random = random_numbers(seed, generation, 1)
    order = np.argsort(-fitness, kind="stable")
    children = np.sort(order[max(1, n // 8) :])
    parents = order[random.integers(0, max(1, n // 4), len(children))]
    noise = (sigma * random.standard_normal((len(children), width))).astype(np.float32)
    population = arrays.population
    population[arrays.put(children)] = population[arrays.put(parents)] + arrays.put(noise)


# ---- the program ----


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """What has to be the same when a run goes on."""
    return {name: getattr(args, name) for name in ("population", "hidden", "episodes", "sigma", "seed")}


def current(conn: psycopg.Connection, swarm: str) -> tuple[int, dict[str, Any]] | None:
    """Version and metadata of the swarm's newest version."""
    return conn.execute(
        "SELECT v.version, v.metadata FROM gpuagent.swarm_version v WHERE v.swarm = %s ORDER BY v.version DESC LIMIT 1",
        [swarm],
    ).fetchone()


def begin(conn: psycopg.Connection, args: argparse.Namespace) -> tuple[int, bool]:
    """Generation to go on with, making generation 0 where there is none; whether there was one."""
    found = current(conn, args.swarm)
    if found is None:
        first = random_numbers(args.seed, 0, 2).standard_normal((args.population, 6 * args.hidden)) * 0.1
        metadata = {"generation": 0, "configuration": configuration(args)}
        gpuagent.store_swarm(conn, args.swarm, first.astype(np.float32), metadata=metadata, expected_version=0)
        return 0, False
    metadata = found[1]
    if metadata.get("configuration") != configuration(args):
        sys.exit(f"swarm {args.swarm!r} is of another configuration: {metadata.get('configuration')}; use another --swarm")
    return metadata["generation"], True


def commit(conn: psycopg.Connection, mapped: gpuagent.Mapped, args: argparse.Namespace, generation: int, scores: np.ndarray) -> int:
    """One transaction: the next generation as a version, the metrics of this one, and now and then a checkpoint."""
    fitness = scores.mean(axis=1)
    metrics = {"best": fitness.max(), "mean": fitness.mean(), "median": np.median(fitness)}
    with conn.transaction():
        version = mapped.sync({"generation": generation + 1, "configuration": configuration(args)})
        conn.execute(
            "SELECT gpuagent.store_metrics(%s, %s, step => %s)",
            [args.swarm, Jsonb({key: float(value) for key, value in metrics.items()}), generation],
        )
        if (generation + 1) % args.checkpoint_every == 0:
            conn.execute(
                "SELECT gpuagent.create_checkpoint(%s, objects => %s, run => %s, step => %s)",
                [f"{args.swarm} {generation + 1}", [f"swarm:{args.swarm}", "metrics"], args.swarm, generation + 1],
            )
    return version


def champion(conn: psycopg.Connection, arrays: Arrays, args: argparse.Namespace, generation: int) -> np.ndarray:
    """The returns of the best controller in episodes that nobody has seen; stored as agent SWARM/champion."""
    scores = returns(arrays, arrays.population, args.hidden, starting_states(args.seed, generation, args.episodes))
    best = int(np.argmax(scores.mean(axis=1)))
    row = arrays.population[best : best + 1]
    scores = returns(arrays, row, args.hidden, starting_states(args.seed, generation, 100, purpose=3))[0]
    conn.execute(
        "SELECT gpuagent.store_agent(%s, %s, generation => %s, fitness => %s)",
        [f"{args.swarm}/champion", arrays.get(row)[0], generation, float(scores.mean())],
    )
    return scores


def evolve(conn: psycopg.Connection, args: argparse.Namespace) -> None:
    gpuagent.register(conn)
    generation, resumed = begin(conn, args)
    with gpuagent.map_swarm(conn, args.swarm, "r+", device=args.device, lease="1 min", autorenew=True) as mapped:
        if resumed:
            mapped.revert()  # what the last process did after its last commit is not a generation
        arrays = Arrays(mapped, args.framework)
        print(f"{'resumed' if resumed else 'begun'} at generation {generation}: {mapped.kind}, {arrays.name}", flush=True)
        while generation < args.generations:
            start = time.perf_counter()
            scores = returns(
                arrays, arrays.population, args.hidden, starting_states(args.seed, generation, args.episodes)
            )
            evaluated = time.perf_counter()
            with mapped.step():
                breed(arrays, scores.mean(axis=1), args.seed, generation, args.sigma)
            bred = time.perf_counter()
            version = commit(conn, mapped, args, generation, scores)
            fitness = scores.mean(axis=1)
            print(
                f"generation {generation:3d}: best {fitness.max():5.1f}, mean {fitness.mean():5.1f}; version {version},"
                f" {mapped.synced.dirty_bytes} bytes changed; evaluated in {(evaluated - start) * 1e3:.0f} ms,"
                f" bred in {(bred - evaluated) * 1e3:.1f}, committed in {(time.perf_counter() - bred) * 1e3:.1f}",
                flush=True,
            )
            generation += 1
        scores = champion(conn, arrays, args, generation)
        print(f"champion: mean return {scores.mean():.1f} in {len(scores)} new episodes, worst {scores.min():.0f}")
    if args.curve:
        draw(args.curve, learning_curve(conn, args.swarm))
        print(f"learning curve: {args.curve}")


# ---- the learning curve ----


def learning_curve(conn: psycopg.Connection, run: str) -> dict[str, list[float]]:
    """From the database, so that it has the generations before an interruption."""
    rows = conn.execute(
        "SELECT key, array_agg(value ORDER BY step) FROM gpuagent.metric WHERE run = %s GROUP BY key ORDER BY key", [run]
    )
    return dict(rows.fetchall())


def draw(path: str, curve: dict[str, list[float]]) -> None:
    try:
        import matplotlib
    except ImportError:
        draw_plainly(path, curve)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for key, values in curve.items():
        axes.plot(values, label=f"{key} of the population")
    axes.set(xlabel="generation", ylabel="mean return", ylim=(0, STEPS * 1.04), title="CartPole-v1, neuro-evolution")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


FONT = dict(zip("0123456789", "75557 26227 71747 71717 55711 74717 74757 71111 75757 75717".split()))


def draw_plainly(path: str, curve: dict[str, list[float]]) -> None:
    """Without a package: a line for each key in its order (blue, orange, green), ticks with their numbers."""
    width, height, left, top, right, bottom = 640, 400, 50, 15, 625, 370
    image = np.full((height, width, 3), 255, np.uint8)
    count = max(map(len, curve.values()), default=1)

    def across(generation: float) -> float:
        return left + generation * (right - left) / max(1, count - 1)

    def up(value: float) -> float:
        return bottom - value * (bottom - top) / (STEPS * 1.04)

    def number(value: int, x: int, y: int) -> None:
        for i, digit in enumerate(str(value)):
            for row, bits in enumerate(FONT[digit]):
                for column in range(3):
                    if int(bits) >> (2 - column) & 1:
                        image[y + 2 * row : y + 2 * row + 2, x + 8 * i + 2 * column : x + 8 * i + 2 * column + 2] = 60

    for value in range(0, STEPS + 1, 100):
        image[round(up(value)), left:right] = 225
        number(value, 18, round(up(value)) - 5)
    for generation in range(0, count, max(1, count // 8)):
        image[top:bottom, round(across(generation))] = 225
        number(generation, round(across(generation)) - 6, bottom + 8)
    image[bottom, left:right] = image[top:bottom, left] = 60
    colours = ((31, 119, 180), (255, 127, 14), (44, 160, 44))
    for values, colour in zip(curve.values(), colours):
        points = np.linspace(0, max(len(values) - 1, 0), 20 * width)
        ys = np.interp(points, np.arange(len(values)), values) if values else []
        for x, y in zip(points, ys):
            image[round(up(y)) - 1 : round(up(y)) + 1, round(across(x)) : round(across(x)) + 2] = colour

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.tobytes() for line in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(lines, 9)) + part(b"IEND", b""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conninfo", default="", help="of libpq; else its environment variables")
    parser.add_argument("--swarm", default="cartpole", help="the population, and the name of the run of metrics")
    parser.add_argument("--population", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=16, help="neurons")
    parser.add_argument("--episodes", type=int, default=16, help="for each controller and generation")
    parser.add_argument("--generations", type=int, default=40)
    parser.add_argument("--sigma", type=float, default=0.1, help="standard deviation of a mutation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint-every", type=int, default=10, metavar="GENERATIONS")
    parser.add_argument("--device", help="host, cuda, cuda:1; else as the server chooses")
    parser.add_argument("--framework", choices=("cupy", "torch"), help="for a GPU; else CuPy where it is there")
    parser.add_argument("--curve", metavar="PNG", help="save the learning curve")
    args = parser.parse_args()
    with psycopg.connect(args.conninfo, autocommit=True) as conn:
        evolve(conn, args)


if __name__ == "__main__":
    main()
