"""doc/examples/evolve.py, killed at random moments: no committed generation is lost, and the end is the same to the bit."""

import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import zlib

import psycopg

import gpuagent

EXAMPLE = next(
    (p for p in pathlib.Path(__file__).resolve().parents if (p / "doc/examples/evolve.py").exists()), pathlib.Path("/")
) / "doc/examples/evolve.py"
LONG = bool(os.environ.get("GA_TEST_LONG"))
GENERATIONS, KILLS = (400, 60) if LONG else (60, 6)


def png_size(data):
    """Width and height of a PNG whose parts are all there and whole."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds, pixels = 8, [], b""
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body), kind
        kinds.append(kind)
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
        elif kind == b"IDAT":
            pixels += body
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    channels = {2: 3, 6: 4}[colour]
    assert depth == 8 and len(zlib.decompress(pixels)) == height * (1 + width * channels)
    return width, height


class EvolveTest(unittest.TestCase):
    names = ("python-evolve-whole", "python-evolve-killed")

    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)
        gpuagent.register(self.conn)
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.forget()
        self.addCleanup(self.forget)

    def forget(self):
        for name in self.names:
            self.conn.execute("SELECT gpuagent.unmap_swarm(%s)", [name])
            self.conn.execute("SELECT gpuagent.delete_swarm(%s)", [name])
            self.conn.execute("SELECT gpuagent.delete_agent(%s)", [f"{name}/champion"])
            self.conn.execute("DELETE FROM gpuagent.run WHERE run = %s", [name])
            self.conn.execute("SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint WHERE run = %s", [name])

    def start(self, swarm):
        self.curve = os.path.join(self.folder.name, f"{swarm}.png")
        options = dict(population=64, hidden=8, episodes=4, generations=GENERATIONS, sigma=0.3, checkpoint_every=20)
        command = [sys.executable, str(EXAMPLE), "--swarm", swarm, "--curve", self.curve]
        for name, value in options.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def committed(self, swarm):
        """Generation of the newest version, and the metrics of all before it."""
        row = self.conn.execute(
            "SELECT metadata -> 'generation' FROM gpuagent.swarm_version WHERE swarm = %s ORDER BY version DESC LIMIT 1", [swarm]
        ).fetchone()
        metrics = self.conn.execute(
            "SELECT step, key, value FROM gpuagent.metric WHERE run = %s ORDER BY step, key", [swarm]
        ).fetchall()
        return (row[0] if row else -1), metrics

    def population(self, swarm):
        return self.conn.cursor(binary=True).execute("SELECT gpuagent.retrieve_swarm(%s)", [swarm]).fetchone()[0]

    def test_killed_at_random_moments(self):
        whole, killed = self.names
        started = time.monotonic()
        process = self.start(whole)
        output = process.communicate(timeout=1200)[0]
        pace = min(0.03, (time.monotonic() - started) / GENERATIONS)    # seconds of a generation, on this machine
        self.assertEqual(process.returncode, 0, output)
        self.assertRegex(output, "champion: mean return (4[5-9]|500)", output)
        self.assertGreater(min(png_size(pathlib.Path(self.curve).read_bytes())), 300)

        rng = random.Random(5)
        kills, before, cut = 0, -1, []
        while True:
            process = self.start(killed)
            # From somewhere in its work on: five lines are in a run's first generations.
            for _ in range(rng.randrange(2, 12)):
                process.stdout.readline()
            time.sleep(rng.uniform(0, pace))
            if kills < KILLS:
                process.kill()
            output = process.communicate(timeout=1200)[0]
            generation, metrics = self.committed(killed)
            self.assertGreaterEqual(generation, before, "a committed generation is lost")
            self.assertEqual([step for step, key, _ in metrics if key == "best"], list(range(max(generation, 0))))
            if process.returncode == 0:
                break
            self.assertEqual(process.returncode, -9, output)
            kills, before = kills + 1, generation
            cut.append(generation)
        self.assertEqual(kills, KILLS)
        self.assertEqual(generation, GENERATIONS)
        self.assertGreater(len(set(cut)), 2, cut)
        self.assertEqual(self.committed(whole), self.committed(killed))
        self.assertEqual(self.population(whole).tobytes(), self.population(killed).tobytes())
        saved = self.conn.execute(
            "SELECT step FROM gpuagent.checkpoint WHERE run = %s AND status = 'valid' ORDER BY step", [killed]
        ).fetchall()
        self.assertEqual(saved, [(step,) for step in range(20, GENERATIONS + 1, 20)])
        self.assertEqual(
            *(
                self.conn.execute("SELECT state, fitness FROM gpuagent.agent WHERE id = %s", [f"{name}/champion"]).fetchone()[1]
                for name in self.names
            )
        )
        png_size(pathlib.Path(self.curve).read_bytes())


if __name__ == "__main__":
    unittest.main()
