"""ublk where the kernel may lack it. tests/guest has the disks themselves."""

import os
import unittest

from host import Host
from spdk_client import Client, Refused

HAS_UBLK = os.path.exists("/dev/ublk-control")


class Ublk(unittest.TestCase):
    def test_codes_are_the_references_and_a_kernel_without_ublk_is_named(self):
        with Host() as host:
            host.call("bdev_malloc_create", name="m0", num_blocks=2048, block_size=512)
            for method, params, code, word in (
                ("ublk_destroy_target", {}, -32603, "no ublk target"),
                ("ublk_start_disk", {"bdev_name": "m0", "ublk_id": 1}, -19, "ublk_create_target"),
                ("ublk_recover_disk", {"bdev_name": "m0", "ublk_id": 1}, -19, "ublk_create_target"),
                ("ublk_stop_disk", {"ublk_id": 1}, -19, "No such device"),
                ("ublk_get_disks", {"ublk_id": 1}, -19, "No such device"),
                ("ublk_create_target", {"cpumask": "0xzz"}, -32603, "cpumask"),
                ("ublk_create_target", {"cpumask": "[99]"}, -32603, "cpumask"),
            ):
                error = host.refused(method, **params)
                self.assertEqual(error.code, code, (method, params, error))
                self.assertIn(word, error.message)
            if HAS_UBLK:
                self.assertTrue(host.call("ublk_create_target"))
            else:
                error = host.refused("ublk_create_target")
                self.assertEqual(error.code, -32603, error)
                self.assertIn("modprobe ublk_drv", error.message)

    def test_the_reference_client_calls_every_method(self):
        with Host() as host, Client(host.socket) as client:
            host.call("bdev_malloc_create", name="m0", num_blocks=2048, block_size=512)
            self.assertEqual(client.call("ublk_get_disks"), [])
            for line in ("ublk_start_disk m0 1 --num-queues 2 --queue-depth 64", "ublk_recover_disk m0 1",
                         "ublk_stop_disk 1", "ublk_get_disks -n 1", "ublk_destroy_target"):
                with self.assertRaises(Refused, msg=line):
                    client.call(line)
            if HAS_UBLK:
                client.call("ublk_create_target -m 0x1 --disable-user-copy")
                client.call("ublk_destroy_target")
            else:
                with self.assertRaises(Refused) as refused:
                    client.call("ublk_create_target -m 0x1 --disable-user-copy")
                self.assertIn("modprobe ublk_drv", str(refused.exception))


if __name__ == "__main__":
    unittest.main()
