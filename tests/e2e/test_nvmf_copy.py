"""The Copy command of the NVMe-oF target. SPDK's client from PyPI sends it through the NVMe plugin."""

import base64
import os
import struct
import unittest

from host import Host, free_port
from spdk_client import Client
from test_nvme import export, where
from test_nvme_methods import READ, WRITE, command, encoded, status

COPY = 0x19
BLOCK = 512


class Copy(unittest.TestCase):
    def setUp(self):
        self.host = self.enterContext(Host())
        port = free_port()
        export(self.host, port)
        self.host.call("bdev_nvme_attach_controller", **where(port))
        self.client = self.enterContext(Client(self.host.socket))

    def send(self, direction, cmdbuf, more):
        return self.client.call(f"bdev_nvme_send_cmd -n Nvme0 -t io -r {direction} -c {cmdbuf} {more}")

    def copy(self, to, ranges, form=0):
        """Copies ranges of (first block, number of blocks) to consecutive blocks that begin at `to`. Returns the status."""
        data = b"".join(struct.pack("<8xQH14x", first, blocks - 1) for first, blocks in ranges)
        entry = command(COPY, 1, dw10=to, dw12=len(ranges) - 1 | form << 8)
        return status(self.send("h2c", entry, f"-d {encoded(data)}"))

    def test_ranges_are_copied_one_behind_the_other(self):
        data = os.urandom(8 * BLOCK)
        self.host.call("bdev_nvme_send_cmd", name="Nvme0", cmd_type="io", data_direction="h2c",
                       cmdbuf=command(WRITE, 1, dw12=7), data=encoded(data))
        self.assertEqual(self.copy(1000, [(4, 4), (0, 1), (2, 2)]), (0, 0))
        answer = self.send("c2h", command(READ, 1, dw10=1000, dw12=6), f"-D {7 * BLOCK}")
        copied = base64.urlsafe_b64decode(answer["data"])
        self.assertEqual(copied, data[4 * BLOCK:] + data[:BLOCK] + data[2 * BLOCK:4 * BLOCK])

    def test_what_is_out_of_bounds_or_of_another_format_is_refused(self):
        self.assertEqual(self.copy(0, [(65535, 2)]), (0, 0x80), "LBA Out of Range")
        self.assertEqual(self.copy(65535, [(0, 2)]), (0, 0x80))
        self.assertEqual(self.copy(0, [(0, 257)]), (1, 0x83), "Command Size Limit Exceeded")
        self.assertEqual(self.copy(0, [(0, 1)], form=2), (0, 0x02), "Invalid Field")


if __name__ == "__main__":
    unittest.main()
