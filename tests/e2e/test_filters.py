"""`error`, `delay` and `gpt`: PyPI's `spdk` client calls every method, with I/O over NBD."""

import binascii
import struct
import time
import unittest
import uuid

from host import Host
from spdk_client import Client, Refused
from test_nbd import READ, WRITE
from test_nbd import Client as Nbd

EIO = 5
BLOCK, BLOCKS = 512, 8192
TYPE = uuid.UUID("6527994e-2c5a-4eec-9613-8f5944074e8b")
TYPE_OLD = uuid.UUID("7c5222bd-8f5d-4087-9c00-bf9843c7b58c")


def table(parts):
    """A disk with a GUID partition table: type, first and last block of each partition."""
    disk = bytearray(BLOCK * BLOCKS)
    disk[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xee, b"\xff\xff\xff", 1, BLOCKS - 1)
    disk[510:512] = b"\x55\xaa"
    entries = b"".join(kind.bytes_le + uuid.UUID(int=first).bytes_le + struct.pack("<QQQ", first, last, 0)
                       + f"part{first}".encode("utf-16le").ljust(72, b"\0") for kind, first, last in parts)
    entries = entries.ljust(128 * 128, b"\0")
    for lba, other, place in ((1, BLOCKS - 1, 2), (BLOCKS - 1, 1, BLOCKS - 33)):
        def header(crc):
            return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, crc, 0, lba, other, 34, BLOCKS - 34,
                               uuid.UUID(int=1).bytes_le, place, 128, 128, binascii.crc32(entries))
        disk[lba * BLOCK:lba * BLOCK + 92] = header(binascii.crc32(header(0)))
        disk[place * BLOCK:place * BLOCK + len(entries)] = entries
    return bytes(disk)


class Filters(unittest.TestCase):
    def setUp(self):
        self.host = Host()
        self.addCleanup(self.host.remove)
        self.state = f"{self.host.folder}/state.json"
        self.start()
        self.client.call(f"bdev_malloc_create -b Base 4 {BLOCK}")

    def start(self):
        self.host.start("--state", self.state)
        self.client = Client(self.host.socket)
        self.addCleanup(self.client.__exit__)
        self.path = f"{self.host.folder}/nbd.sock"

    def serve(self, name):
        if not self.host.call("nbd_get_servers"):
            self.host.call("nbd_create_server", name="s0", path=self.path)
        self.host.call("nbd_server_add_export", server="s0", bdev_name=name)
        client = Nbd(self.path)
        self.addCleanup(client.__exit__)
        client.go(name)
        return client

    def read(self, disk, offset=0, length=4096):
        disk.request(READ, offset, length)
        return disk.reply(length)

    def write(self, disk, data, offset=0):
        disk.request(WRITE, offset, len(data), data)
        return disk.reply()[0]

    def refused(self, line):
        with self.assertRaises(Refused) as caught:
            self.client.call(line)
        return str(caught.exception)

    def test_error_fails_holds_and_corrupts_the_io_that_it_should(self):
        self.assertIn(self.client.call("bdev_error_create Base"), ("", True))
        [shown] = self.client.call("bdev_get_bdevs -b EE_Base")
        self.assertEqual(shown["product_name"], "Error Injection Disk")
        self.assertEqual(shown["driver_specific"], {"error_disk": {"base_bdev": "Base"}})
        self.assertIn("File exists", self.refused("bdev_error_create Base"))
        self.assertIn("No such device", self.refused("bdev_error_inject_error EE_None read failure"))
        self.assertIn("should be specified", self.refused("bdev_error_inject_error EE_Base read nvme_failure"))
        disk = self.serve("EE_Base")
        self.assertEqual(self.write(disk, b"\1" * 4096), 0)

        self.client.call("bdev_error_inject_error EE_Base read failure -n 2")
        self.assertEqual([self.read(disk)[0] for _ in range(3)], [EIO, EIO, 0])
        self.client.call("bdev_error_inject_error EE_Base write nvme_failure --nvme-sct 2 --nvme-sc 128")
        self.assertNotEqual(self.write(disk, b"\2" * 4096), 0)
        self.client.call("bdev_error_inject_error EE_Base all nomem -n 3")
        self.assertEqual(self.read(disk), (0, b"\1" * 4096))
        self.client.call("bdev_error_inject_error EE_Base all failure -n 9")
        self.client.call("bdev_error_inject_error EE_Base clear failure")
        self.assertEqual(self.write(disk, b"\3" * 4096), 0)
        self.client.call("bdev_error_inject_error EE_Base read corrupt_data -o 1 -v 4")
        self.assertEqual(self.read(disk)[1][:3], b"\3\7\3")
        self.client.call("bdev_error_inject_error EE_Base write corrupt_data -o 2 -v 4")
        self.assertEqual(self.write(disk, b"\3" * 4096), 0)
        self.assertEqual(self.read(disk)[1][:4], b"\3\3\7\3")
        # The second read of block 8 or 9.
        self.host.call("bdev_error_inject_error", name="EE_Base", io_type="read", error_type="failure",
                       lba=8, num_blocks=2, skip=1)
        places = [7 * BLOCK, 8 * BLOCK, 10 * BLOCK, 9 * BLOCK, 9 * BLOCK]
        self.assertEqual([self.read(disk, place, BLOCK)[0] for place in places], [0, 0, 0, EIO, 0])

        self.client.call("bdev_error_inject_error EE_Base read pending")
        disk.request(READ, 0, 4096)
        disk.request(READ, 0, BLOCK)
        # The filter holds the first read, so this reply belongs to the second read. No other reply follows.
        self.assertEqual(disk.reply(BLOCK)[0], 0)
        disk.socket.settimeout(0.2)
        self.assertRaises(TimeoutError, disk.take, 1)
        disk.socket.settimeout(30)
        self.assertIn(self.client.call("bdev_error_resume_pending EE_Base"), ("", True))
        self.assertEqual(disk.reply(4096)[0], 0)

        # Held I/O does not prevent the deletion of the bdev.
        self.client.call("bdev_error_inject_error EE_Base read pending")
        disk.request(READ, 0, 4096)
        disk.request(READ, 0, BLOCK)
        self.assertEqual(disk.reply(BLOCK)[0], 0)
        self.assertIn(self.client.call("bdev_error_delete EE_Base"), ("", True))
        self.client.call("bdev_error_create Base")

        self.again("EE_Base")
        self.assertIn(self.client.call("bdev_error_delete EE_Base"), ("", True))
        self.assertIn("No such device", self.refused("bdev_error_delete EE_Base"))
        self.host.stop()

    def test_delay_answers_later(self):
        create = "bdev_delay_create -b Base -d Slow -r {} -t {} -w {} -n {}"
        self.assertIn("p99_read_latency", self.refused(create.format(2, 1, 0, 0)))
        self.assertEqual(self.client.call(create.format(0, 0, 0, 0)), "Slow")
        self.assertIn("File exists", self.refused(create.format(0, 0, 0, 0)))
        [shown] = self.client.call("bdev_get_bdevs -b Slow")
        self.assertEqual(shown["driver_specific"]["delay"]["base_bdev_name"], "Base")
        disk = self.serve("Slow")
        self.assertEqual(self.write(disk, b"\1" * 4096), 0)
        for kind in ("avg_read", "p99_read"):
            self.assertIn(self.client.call(f"bdev_delay_update_latency Slow {kind} 300000"), ("", True))
        self.assertIn("does not exist", self.refused("bdev_delay_update_latency None avg_read 1"))
        begin = time.monotonic()
        self.assertEqual(self.read(disk), (0, b"\1" * 4096))
        self.assertGreaterEqual(time.monotonic() - begin, 0.3)
        self.again("Slow")
        [shown] = self.client.call("bdev_get_bdevs -b Slow")
        self.assertEqual(shown["driver_specific"]["delay"]["avg_read_latency"], 300000)
        self.assertIn(self.client.call("bdev_delay_delete Slow"), ("", True))
        self.host.stop()

    def test_gpt_makes_disks_of_partitions_of_both_types(self):
        image = f"{self.host.folder}/image"
        with open(image, "wb") as file:
            file.write(table([(TYPE, 64, 127), (uuid.UUID(int=7), 128, 255), (TYPE_OLD, 256, 511)]))
        self.host.call("plugin_load", name="gpt")
        self.client.call(f"bdev_aio_create {image} Disk {BLOCK}")
        self.client.call("bdev_wait_for_examine")
        parts = {bdev["name"]: bdev for bdev in self.client.call("bdev_get_bdevs") if bdev["name"].startswith("Diskp")}
        self.assertEqual({name: part["num_blocks"] for name, part in parts.items()}, {"Diskp1": 64, "Diskp3": 255})
        self.assertEqual(parts["Diskp1"]["uuid"], str(uuid.UUID(int=64)))
        self.assertEqual(parts["Diskp1"]["product_name"], "GPT Disk")
        self.assertEqual(parts["Diskp1"]["driver_specific"]["gpt"], {
            "base_bdev": "Disk", "offset_blocks": 64, "partition_table_guid": str(uuid.UUID(int=1)),
            "partition_type_guid": str(TYPE), "unique_partition_guid": str(uuid.UUID(int=64)),
            "partition_name": "part64"})
        disk = self.serve("Diskp1")
        self.assertEqual(self.write(disk, b"\5" * BLOCK), 0)
        with open(image, "rb") as file:
            file.seek(64 * BLOCK)
            self.assertEqual(file.read(BLOCK), b"\5" * BLOCK)
        self.client.call("bdev_aio_delete Disk")
        self.assertNotIn("Diskp1", str(self.client.call("bdev_get_bdevs")))
        self.host.stop()

    def again(self, name):
        """The disk exists again after a restart from the state file."""
        self.host.stop()
        self.start()
        self.assertEqual(len(self.client.call(f"bdev_get_bdevs -b {name}")), 1)


if __name__ == "__main__":
    unittest.main()
