"""A short fuzz of the types with a fixed seed; with GA_TEST_LONG longer, and with a seed of its own each time, which a failure names."""

import os
import random
import unittest

import fuzz_types


class FuzzTest(unittest.TestCase):
    def test_mutations(self):
        runs = [(3, 1)]
        if os.environ.get("GA_TEST_LONG"):
            runs.append((120, random.randrange(2 ** 32)))
        for seconds, seed in runs:
            with self.subTest(seed=seed):
                counts = fuzz_types.fuzz(seconds, seed)
                for form, (tried, accepted) in counts.items():
                    self.assertGreater(accepted, 0, form)
                    self.assertGreater(tried - accepted, 0, form)


if __name__ == "__main__":
    unittest.main()
