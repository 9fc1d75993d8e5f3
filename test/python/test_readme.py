"""The README's tour of SQL runs as it is printed, in one session of a fresh database."""
import os
import pathlib
import re
import unittest

import psycopg
from psycopg import sql

README = next(
    (p for p in (pathlib.Path(__file__).resolve().parents[2] / "README.md", pathlib.Path("README.md")) if p.exists()), None
)


class ReadmeTour(unittest.TestCase):
    def setUp(self):
        self.assertIsNotNone(README, "README.md is beside the tests")
        self.admin = psycopg.connect(autocommit=True)
        self.name = f"readme_{os.getpid()}"
        self.admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))

    def tearDown(self):
        for setting in ("auto_save_interval", "max_checkpoints"):
            self.admin.execute(f"ALTER SYSTEM RESET gpuagent.{setting}")
        self.admin.execute("SELECT pg_reload_conf()")
        self.admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name)))
        self.admin.close()

    def test_tour(self):
        blocks = re.findall(r"```sql\n(.*?)```", README.read_text(), re.S)
        self.assertGreaterEqual(len(blocks), 5)
        results = {}
        with psycopg.connect(dbname=self.name, autocommit=True) as conn:
            for block in blocks:
                bare = re.sub(r"--.*", "", block)
                for statement in filter(str.strip, re.split(r";\s*\n", bare)):
                    cursor = conn.execute(statement)
                    results[statement.strip().rstrip(";")] = cursor.fetchall() if cursor.description else None

        def result(beginning):
            found = [rows for text, rows in results.items() if text.startswith(beginning)]
            self.assertEqual(len(found), 1, beginning)
            return found[0]

        self.assertEqual(result("SELECT id, state, fitness, version FROM retrieve_agents"), [("run7/0002", "[4,5,6]", 0.9, 1)])
        self.assertEqual([r[0] for r in result("SELECT id, embedding <=>")], ["cat", "dog"])
        self.assertEqual([r[:2] for r in result("SELECT node, hop, distance")], [("cat", 0), ("dog", 1)])
        self.assertEqual(
            result("SELECT retrieve_swarm('population')::float8[]"), [([[1, 2], [30, 40], [5, 6]], [[1, 2], [3, 4], [5, 6]])]
        )
        self.assertEqual(
            result("SELECT object, part, change FROM checkpoint_diff"), [("agents", "run7/0001", "changed")]
        )
        self.assertEqual(result("SELECT ids, fitness FROM retrieve_population(ids"), [(["run7/0001"], [0.7])])
        self.assertEqual(result("SELECT id, fitness FROM retrieve_agent("), [("run7/0001", 0.7)])
        # of the first session of a tree that others have backed up, too, a later one
        self.assertGreaterEqual(result("SELECT create_backup('backups/nightly')")[0][0], 1)
        self.assertIn(("agents", 2), result("SELECT object, rows FROM restore_backup"))


if __name__ == "__main__":
    unittest.main()
