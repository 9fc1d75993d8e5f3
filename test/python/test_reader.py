"""The second reader of safetensors files: it agrees with the package and refuses what the format forbids."""
import json
import os
import struct
import tempfile
import unittest

import numpy as np
from safetensors.numpy import load_file

import safetensors_reader


class Reader(unittest.TestCase):
    def write(self, header, data, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        with tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False) as f:
            self.addCleanup(os.unlink, f.name)
            f.write(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return f.name

    def entry(self, begin, end, dtype="F32", shape=(1,)):
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}

    def test_agrees_with_the_package(self):
        path = os.path.join(os.environ["GA_TEST_DATA"], "minilm-extract.safetensors")
        mine, theirs = safetensors_reader.load(path), load_file(path)
        self.assertEqual(set(mine), set(theirs))
        self.assertEqual(mine["embeddings.word_embeddings.weight"][0], "F16")
        for name, (_, array) in mine.items():
            self.assertEqual((array.dtype, array.shape), (theirs[name].dtype, theirs[name].shape))
            self.assertEqual(array.tobytes(), theirs[name].tobytes())

    def test_reads_values(self):
        data = struct.pack("<2f", 1.5, -2.0) + b"\x01\x00"
        path = self.write({"a": self.entry(0, 8, shape=(2, 1)), "b": self.entry(8, 10, "BOOL", (2,)),
                           "empty": self.entry(10, 10, "F64", (0, 3)), "__metadata__": {"k": "v"}}, data)
        tensors = safetensors_reader.load(path)
        np.testing.assert_array_equal(tensors["a"][1], [[1.5], [-2.0]])
        np.testing.assert_array_equal(tensors["b"][1], [True, False])
        self.assertEqual(tensors["empty"][1].shape, (0, 3))
        self.assertEqual(safetensors_reader.read_header(path)[1], {"k": "v"})

    def test_refuses(self):
        one = self.entry(0, 4)
        bad = {
            "a hole": self.write({"a": one, "b": self.entry(8, 12)}, bytes(12)),
            "an overlap": self.write({"a": one, "b": self.entry(2, 6)}, bytes(6)),
            "trailing bytes": self.write({"a": one}, bytes(5)),
            "missing bytes": self.write({"a": one}, bytes(3)),
            "a wrong size": self.write({"a": self.entry(0, 4, shape=(2,))}, bytes(4)),
            "a name twice": self.write(b'{"a":%s,"a":%s}' % ((json.dumps(one).encode(),) * 2), bytes(4)),
            "a cut header": self.write({"a": one}, b"", length=1000),
            "a huge header": self.write({"a": one}, bytes(4), length=1 << 60),
            "leading space": self.write(b" " + json.dumps({"a": one}).encode(), bytes(4)),
        }
        for what, path in bad.items():
            with self.subTest(what), self.assertRaises(safetensors_reader.FormatError):
                safetensors_reader.load(path)


if __name__ == "__main__":
    unittest.main()
