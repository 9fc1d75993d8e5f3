"""Open every exported safetensors file with two readers that share no code and compare them with the database.

    check_files.py FOLDER FINGERPRINT

The two readers must agree bit for bit, and each tensor that the fingerprint names as weights, or as the newest
version of a swarm, must be in the files with its dtype, shape and bits.
"""
import hashlib
import pathlib
import sys

from safetensors import safe_open

import safetensors_reader


def digests(folder):
    """Read all files both ways; return {(dtype, shape, sha256)}, how many files and how many bytes of tensors."""
    found, files, total = set(), 0, 0
    for path in sorted(folder.rglob("*.safetensors")):
        files += 1
        mine = safetensors_reader.load(path)
        with safe_open(path, "np") as theirs:
            if set(theirs.keys()) != set(mine):
                sys.exit(f"{path}: the readers disagree about the names")
            for name, (dtype, array) in mine.items():
                part = theirs.get_slice(name)
                if part.get_dtype() != dtype or part.get_shape() != list(array.shape):
                    sys.exit(f"{path}: {name}: the readers disagree about dtype or shape")
                if dtype != "BF16" and theirs.get_tensor(name).tobytes() != array.tobytes():
                    sys.exit(f"{path}: {name}: the readers disagree about the bits")
                total += array.nbytes
                found.add((dtype, "{%s}" % ",".join(map(str, array.shape)), hashlib.sha256(array.tobytes()).hexdigest()))
    return found, files, total


def expected(fingerprint):
    """The tensors that the files must hold: {object: (dtype, shape, sha256)}."""
    result = {}
    for line in fingerprint.read_text(encoding="utf-8").splitlines():
        kind, name, _, *value = line.split(" ")
        if kind in ("weights", "swarm"):
            result[kind, name] = tuple(value[:3])
    return result


def main():
    found, files, total = digests(pathlib.Path(sys.argv[1]))
    wanted = expected(pathlib.Path(sys.argv[2]))
    lost = [" ".join(key) for key, value in wanted.items() if value not in found]
    if lost or not wanted:
        sys.exit("not in the files: " + (", ".join(lost) or "anything"))
    print(f"{files} files, {len(found)} tensors, {total:,} bytes: both readers agree; "
          f"all {len(wanted)} layers and swarms are there bit for bit")


if __name__ == "__main__":
    main()
