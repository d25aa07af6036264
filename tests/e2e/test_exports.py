"""One bdev with exports of several protocols, and a protocol plugin that is loaded while the host serves I/O."""

import os
import unittest

from host import Host, free_port
from iscsi_client import CheckCondition, Session
from test_iscsi import TARGET, run
from test_nvme import NQN, Load, wait, where

MIB = 1 << 20
LENGTH = 64 << 10


def serve_iscsi(host, bdev):
    """Creates a target with one unit on loopback. Returns its port."""
    port = free_port()
    host.call("iscsi_create_portal_group", tag=1, portals=[{"host": "127.0.0.1", "port": str(port)}])
    host.call("iscsi_create_initiator_group", tag=2, initiators=["ANY"], netmasks=["127.0.0.0/8"])
    host.call("iscsi_create_target_node", name="disk1", alias_name="", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 2}],
              queue_depth=64, luns=[{"bdev_name": bdev, "lun_id": 0}])
    return port


class Nvme:
    """The namespace of another host. qemu-io reads and writes it through NVMe/TCP."""

    def __init__(self, host, port):
        self.host, self.path = host, f"{host.folder}/nbd.sock"
        host.call("bdev_nvme_attach_controller", **where(port))
        host.call("nbd_create_server", name="s0", path=self.path)
        host.call("nbd_server_add_export", server="s0", bdev_name="Nvme0n1")

    def io(self, command):
        status, text = run("qemu-io", "-f", "raw", "-c", command, f"nbd+unix:///Nvme0n1?socket={self.path}")
        assert status == 0 and "failed" not in text, text

    def fill(self, lba, byte):
        self.io(f"write -P {byte} {lba * 512} {LENGTH}")

    def check(self, lba, byte):
        self.io(f"read -P {byte} {lba * 512} {LENGTH}")


class Shared(unittest.TestCase):
    def test_a_unit_and_a_namespace_of_one_bdev_show_the_same_data_size_and_end(self):
        with Host() as host, Host() as initiator:
            host.call("bdev_malloc_create", name="base", num_blocks=64 * MIB // 512, block_size=512)
            host.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="store")
            host.call("bdev_lvol_create", lvs_name="store", lvol_name="v", size_in_mib=16)
            _, nvme_port = host.export("store/v", NQN)
            unit = Session(serve_iscsi(host, "store/v"), TARGET)
            self.assertEqual(host.call("bdev_get_bdevs", name="store/v")[0]["claim_type"], "read_many_write_shared")
            namespace = Nvme(initiator, nvme_port)

            for lba, byte in ((0, 0x11), (4096, 0x22)):
                namespace.fill(lba, byte)
                self.assertEqual(unit.read_all(lba, LENGTH), bytes([byte]) * LENGTH)
                unit.write_all(lba, bytes([byte + 1]) * LENGTH)
                namespace.check(lba, byte + 1)

            host.call("bdev_lvol_resize", name="store/v", size_in_mib=32)
            wait(lambda: initiator.call("bdev_get_bdevs", name="Nvme0n1")[0]["num_blocks"] == 32 * MIB // 512)
            with self.assertRaises(CheckCondition) as told:
                unit.test_unit_ready()
            self.assertEqual(told.exception.sense, (6, 0x2A, 0x09))  # capacity data has changed
            self.assertEqual(unit.num_blocks(), 32 * MIB // 512)

            host.call("bdev_lvol_delete", name="store/v")
            wait(lambda: not [one for one in initiator.call("bdev_get_bdevs") if one["name"] == "Nvme0n1"])
            with self.assertRaises(CheckCondition) as told:
                unit.num_blocks()
            self.assertEqual(told.exception.sense, (5, 0x25, 0x00))  # no such unit
            unit.close()

    def test_exports_and_owners_of_a_bdev_refuse_each_other(self):
        with Host() as host:
            for name in ("owned", "served"):
                host.call("bdev_malloc_create", name=name, num_blocks=64 * MIB // 512, block_size=512)
            host.call("bdev_lvol_create_lvstore", bdev_name="owned", lvs_name="store")
            host.export("served", NQN)
            serve_iscsi(host, "served")
            host.call("nbd_create_server", name="s0", path=f"{host.folder}/nbd.sock")
            host.call("nbd_server_add_export", server="s0", bdev_name="served")
            refused = [
                ("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "owned"}}),
                ("iscsi_target_node_add_lun", {"name": TARGET, "bdev_name": "owned"}),
                ("nbd_server_add_export", {"server": "s0", "bdev_name": "owned"}),
                ("vhost_create_blk_controller", {"ctrlr": "c0", "dev_name": "owned"}),
                ("bdev_lvol_create_lvstore", {"bdev_name": "served", "lvs_name": "other"}),
                ("bdev_raid_create", {"name": "r0", "raid_level": "concat", "strip_size_kb": 64, "base_bdevs": ["served"]}),
            ]
            for method, params in refused:
                with self.subTest(method):
                    host.refused(method, **params)
            served = host.call("bdev_get_bdevs", name="served")[0]
            self.assertEqual(served["claim_type"], "read_many_write_shared")


class HotAdded(unittest.TestCase):
    def test_the_iscsi_plugin_comes_to_a_host_that_serves_nvme_under_verified_load(self):
        with Host("--load", "malloc", "--load", "nvmf-tcp") as host:
            host.call("bdev_malloc_create", name="m0", num_blocks=65536, block_size=512)
            host.call("bdev_malloc_create", name="m1", num_blocks=65536, block_size=512)
            _, port = host.export("m0", NQN)
            load = Load(port, "-q", "8", "-o", "4096", "-w", "randrw", "-t", "6")
            subsystem = {"nqn": NQN}
            wait(lambda: host.call("nvmf_subsystem_get_controllers", **subsystem))
            state = {plugin["name"]: plugin["state"] for plugin in host.call("plugin_list")}
            self.assertNotEqual(state["iscsi"], "serving")
            host.call("plugin_load", name="iscsi")
            unit = Session(serve_iscsi(host, "m1"), TARGET)
            data = os.urandom(LENGTH)
            unit.write_all(0, data)
            self.assertEqual(unit.read_all(0, LENGTH), data)
            self.assertTrue(host.call("nvmf_subsystem_get_controllers", **subsystem), "the load ended too early")
            unit.close()
            load.report()


if __name__ == "__main__":
    unittest.main()
