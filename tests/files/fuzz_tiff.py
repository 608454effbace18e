"""Read mutated TIFFs, in a process of its own with little memory; `test_fuzz` starts it.

    python fuzz_tiff.py FOLDER FIRST COUNT FILE...

Mutation n of a file depends on n alone. One line of JSON says what came of them; a mutation that
takes longer than ten seconds ends the process with the signal ALRM, and its number is on stderr.
"""

import collections
import json
import resource
import signal
import struct
import sys
import traceback
from pathlib import Path

import numpy as np
import tifffile

from wnet_nb.errors import UserError
from wnet_nb.files.volumes import read_volume

SECONDS, MEMORY_BYTES = 10, 2**30  # besides what the imports took
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def entries_of(path):
    """Return where the entries of all tags of a file are: (offset of code, bytes of a value)."""
    with tifffile.TiffFile(path) as tif:
        size = 8 if tif.is_bigtiff else 4
        return [(tag.offset, size) for page in tif.pages for tag in page.aspage().tags]


def mutate(content, entries, random):
    """Return the content of a file with one to four damages of the kinds that files meet."""
    content = bytearray(content)
    for _ in range(random.integers(1, 5)):
        kind = random.integers(7)
        place = int(random.integers(len(content)))
        if kind == 0:  # a flipped bit, anywhere
            content[place] ^= 1 << int(random.integers(8))
        elif kind == 1:  # cut short
            del content[max(8, place) :]
        elif kind == 2:  # a lost block
            content[place : place + 512] = bytes(len(content[place : place + 512]))
        elif kind == 3:  # bytes too many or too few
            content[place:place] = random.bytes(int(random.integers(1, 20)))
        elif kind == 4:  # noise in the header
            content[int(random.integers(min(64, len(content))))] = int(random.integers(256))
        else:  # another code, type, count or value of a tag
            offset, size = entries[int(random.integers(len(entries)))]
            at, width = [(0, 2), (2, 2), (4, size), (4 + size, size)][int(random.integers(4))]
            number = int(random.choice(NUMBERS)) % 2 ** (8 * width)
            code = {2: "H", 4: "I", 8: "Q"}[width]
            if offset + at + width <= len(content):
                order = "<" if content[:1] == b"I" else ">"
                struct.pack_into(order + code, content, offset + at, number)
    return bytes(content)


def outcome_of(path):
    """Return what came of a file: volume, or the UserError; any other exception passes."""
    try:
        volume = read_volume(path)
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error), f"not one sentence: {error!r}"
        return "UserError"
    assert volume.array.ndim == 3 and min(volume.array.shape) >= 1, volume.array.shape
    volume.array[[0, -1]].astype("float64").sum()  # what was promised is there
    return "volume"


def main(folder, first, count, *files):
    seeds = [(Path(file).read_bytes(), entries_of(file)) for file in files]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    seen, failures = collections.Counter(), []
    for number in range(int(first), int(first) + int(count)):
        random = np.random.default_rng(number)
        path = Path(folder) / f"mutated_{number}.tif"
        path.write_bytes(mutate(*seeds[int(random.integers(len(seeds)))], random))
        print(number, file=sys.stderr)
        signal.alarm(SECONDS)
        try:
            seen[outcome_of(path)] += 1
        except Exception:
            failures.append([number, traceback.format_exc(limit=-3)])
        signal.alarm(0)
        path.unlink()
    print(json.dumps({"seen": seen, "failures": failures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
