"""ovirt-imageio's own client against a daemon: up, down, checksums, extents, at every buffer size.

peers.py READ_URL WRITE_URL CA IMAGE DIR: IMAGE is what READ_URL has, as a local raw file.
"""

import json
import os
import subprocess
import sys

from ovirt_imageio import client

read_url, write_url, ca, image, folder = sys.argv[1:]
size = os.path.getsize(image)
blank = os.path.join(folder, "blank.raw")
cases = 0


def same(path):
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, path], check=True,
                   stdout=subprocess.DEVNULL)


told = subprocess.run(["curl", "-sS", "--fail", "--cacert", ca, f"{read_url}/extents"],
                      check=True, capture_output=True, text=True).stdout
# what the library itself finds in the file, by qemu-nbd
known = [{"start": e.start, "length": e.length, "zero": e.zero} for e in client.extents(image)]
extents = [{key: e[key] for key in ("start", "length", "zero")} for e in json.loads(told)]
assert extents == known, (extents, known)

for buffer_size in [4096, 65536, 131072, 1 << 20, 4 << 20, 8 << 20, 32 << 20, 128 << 20]:
    for workers in [1, 4]:
        down = os.path.join(folder, "down.raw")
        if os.path.exists(down):
            os.unlink(down)
        client.download(read_url, down, ca, fmt="raw", buffer_size=buffer_size, max_workers=workers)
        same(down)
        # nothing of the last round may be left
        with open(blank, "wb") as f:
            f.truncate(size)
        client.upload(blank, write_url, ca, buffer_size=buffer_size, max_workers=workers)
        client.upload(image, write_url, ca, buffer_size=buffer_size, max_workers=workers)
        back = os.path.join(folder, "back.raw")
        if os.path.exists(back):
            os.unlink(back)
        client.download(write_url, back, ca, fmt="raw", max_workers=4)
        same(back)
        cases += 2

qcow2 = os.path.join(folder, "down.qcow2")
client.download(read_url, qcow2, ca, fmt="qcow2")
subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, qcow2], check=True,
               stdout=subprocess.DEVNULL)

for algorithm in ["blake2b", "sha256", "sha1"]:
    for block_size in [1 << 20, 4 << 20, 16 << 20]:
        theirs = client.checksum(image, block_size=block_size, algorithm=algorithm)
        told = subprocess.run(
            ["curl", "-sS", "--fail", "--cacert", ca,
             f"{read_url}/checksum?algorithm={algorithm}&block_size={block_size}"],
            check=True, capture_output=True, text=True).stdout
        assert theirs["checksum"] in told, (theirs, told)
        cases += 1
print("ok", cases)
