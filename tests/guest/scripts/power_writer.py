"""Replaces files of a folder and fsyncs each, in the order that `versions` gives: power_writer.py FOLDER ROUNDS

After each round it reports to the test, through the run directory, and waits for the answer. So the test
knows the length of the log of the disk's writes at a moment when the round was durable.
"""

import hashlib
import itertools
import mmap
import os
import random
import sys
import threading
import time

SLOTS = 12


def versions(rounds):
    """(round, slot, content) of every round; rounds count from 1."""
    rng = random.Random(20)
    for number in range(1, rounds + 1):
        slot = rng.randrange(SLOTS)
        seed = hashlib.sha256(f"{slot} {number}".encode()).digest()
        yield number, slot, seed * rng.choice([1, 64, 500, 1900, 7000])


def replace(folder, slot, content):
    with open(f"{folder}/new", "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    os.rename(f"{folder}/new", f"{folder}/slot{slot}")
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def tell(number):
    with open("/run/guest/synced.new", "w") as f:
        f.write(str(number))
    os.rename("/run/guest/synced.new", "/run/guest/synced")
    # Each round has its own file, because the guest may have old attributes of a replaced file in
    # its cache.
    while not os.path.exists(f"/run/guest/noted-{number}"):
        time.sleep(0.005)


def write_unflushed(folder):
    """Writes past all caches except that of the disk, and never flushes. A power cut may lose these writes."""
    file = os.open(f"{folder}/noise", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.posix_fallocate(file, 0, 4 << 20)
    os.fsync(file)
    block = mmap.mmap(-1, 4096)
    for number in itertools.count():
        block[:] = os.urandom(4096)
        os.pwrite(file, block, number % 1024 * 4096)


def main(folder, rounds):
    threading.Thread(target=write_unflushed, args=[folder], daemon=True).start()
    for number, slot, content in versions(rounds):
        replace(folder, slot, content)
        tell(number)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
