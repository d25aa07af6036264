"""Bdevs of the NVMe plugin with two paths: two targets, like two nodes of a cluster, relay to one disk behind them."""

import time
import unittest

from host import Host, free_port
from spdk_client import Client
from test_nvme import Load, NQN, wait, where

UUID = "6f9d7b1c-52a4-4a6b-9a2e-3f2f0c1d9e10"
LIMITS = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1}


class TwoPaths(unittest.TestCase):
    def setUp(self):
        self.behind = free_port()
        back = self.enterContext(Host())
        back.call("bdev_malloc_create", name="m0", num_blocks=65536, block_size=512)
        back.export("m0", nqn=NQN, port=self.behind)
        self.targets = [self.enterContext(Host()), self.enterContext(Host())]
        self.ports = [free_port(), free_port()]
        for index in (0, 1):
            self.serve(index)

    def serve(self, index):
        """Exports the disk from a target. Its controller identifiers differ from those of the other target."""
        target = self.targets[index]
        target.call("bdev_nvme_attach_controller", **{**where(self.behind), "name": "Back"})
        target.call("nvmf_create_transport", trtype="TCP")
        first = 1 + 1000 * index
        target.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="TEST", min_cntlid=first,
                    max_cntlid=first + 999)
        target.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Backn1", "nsid": 1, "uuid": UUID})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.ports[index])}
        target.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address)

    def load(self, *flags, **options):
        """Runs `drivebay perf` on a bdev with both paths."""
        return Load(self.ports[0], *flags, more_paths=[where(self.ports[1], **LIMITS)], options=options, **LIMITS)

    def io_queues(self, index):
        return len(self.targets[index].call("nvmf_subsystem_get_qpairs", nqn=NQN)) - 1

    def test_nothing_is_lost_when_the_target_of_one_path_is_killed_and_then_that_of_the_other(self):
        load = self.load("-w", "randrw", "-q", "16", "-t", "15", keep_alive_timeout_ms=2000)
        for index in (0, 1):
            wait(lambda: self.io_queues(0) > 0 and self.io_queues(1) > 0)
            time.sleep(1)
            self.targets[index].kill()
            time.sleep(2)
            self.assertIsNone(load.process.poll())
            self.targets[index].start()
            self.serve(index)
        self.assertGreater(load.report()["reads"], 0)

    def test_active_active_uses_both_paths_and_loses_nothing_when_one_goes(self):
        for selector in ("round_robin", "queue_depth"):
            with self.subTest(selector=selector):
                spread = {"policy": "active_active", "selector": selector, "min_io": 2}
                load = self.load("-w", "randrw", "-q", "16", "-t", "5", keep_alive_timeout_ms=2000,
                                 multipath_opts=spread)
                busy = lambda index: self.targets[index].call("bdev_get_iostat", name="Backn1")["bdevs"][0]["num_read_ops"]
                wait(lambda: self.io_queues(0) > 0 and self.io_queues(1) > 0)
                before = [busy(0), busy(1)]
                wait(lambda: busy(0) > before[0] + 100 and busy(1) > before[1] + 100)
                self.targets[1].kill()
                self.assertGreater(load.report()["reads"], 0)
                self.targets[1].start()
                self.serve(1)

    def test_paths_are_listed_preferred_and_removed(self):
        host = self.enterContext(Host())
        client = self.enterContext(Client(host.socket))
        host.call("bdev_nvme_attach_controller", **where(self.ports[0]))
        self.assertEqual(host.call("bdev_nvme_attach_controller", **where(self.ports[1])), ["Nvme0n1"])
        again = host.refused("bdev_nvme_attach_controller", **where(self.ports[1]))
        self.assertEqual(again.code, -114)
        self.assertIn("specified network path", again.message)
        self.assertEqual(host.refused("bdev_nvme_attach_controller", **where(free_port()), multipath="disable").code, -114)
        controllers = host.call("bdev_nvme_get_controllers", name="Nvme0")[0]["ctrlrs"]
        self.assertEqual([one["trid"]["trsvcid"] for one in controllers], [str(port) for port in self.ports])
        disk = host.call("bdev_get_bdevs", name="Nvme0n1")[0]
        self.assertEqual((disk["uuid"], len(disk["driver_specific"]["nvme"])), (UUID, 2))

        # Another bdev of this host keeps a channel open. Otherwise there would be no paths to show.
        host.export("Nvme0n1", nqn="nqn.2026-01.io.drivebay:relay")
        def current():
            shown = client.call("bdev_nvme_get_io_paths -n Nvme0n1")["poll_groups"]
            paths = [path for thread in shown for path in thread["io_paths"]]
            connected = [path for path in paths if path["connected"]]
            return len(connected) >= 2 and {path["cntlid"] for path in paths if path["current"]}
        first, second = (one["cntlid"] for one in controllers)
        self.assertEqual(wait(current), {first})
        client.call(f"bdev_nvme_set_preferred_path -b Nvme0n1 -c {second}")
        wait(lambda: current() == {second})
        self.assertEqual(host.refused("bdev_nvme_set_preferred_path", name="Nvme0n1", cntlid=7).code, -19)
        host.call("bdev_nvme_set_multipath_policy", name="Nvme0n1", policy="active_active", selector="queue_depth")
        wait(lambda: current() == {first, second})
        self.assertEqual(host.call("bdev_get_bdevs", name="Nvme0n1")[0]["driver_specific"]["selector"], "queue_depth")
        self.assertEqual(host.refused("bdev_nvme_set_multipath_policy", name="m9", policy="active_active").code, -19)

        host.call("bdev_nvme_detach_controller", name="Nvme0", trtype="TCP", traddr="127.0.0.1",
                  trsvcid=str(self.ports[1]))
        wait(lambda: len(host.call("bdev_get_bdevs", name="Nvme0n1")[0]["driver_specific"]["nvme"]) == 1)
        host.call("bdev_nvme_detach_controller", name="Nvme0")
        self.assertEqual(host.call("bdev_nvme_get_controllers"), [])
        self.assertEqual(host.refused("bdev_get_bdevs", name="Nvme0n1").code, -19)


if __name__ == "__main__":
    unittest.main()
