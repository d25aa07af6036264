"""Addresses that a controller falls back on, what is counted for each path, injected errors, and a configuration that SPDK saved."""

import os
import tempfile
import unittest

import test_nvme_multipath
from host import Host, free_port
from spdk_client import Client
from test_nvme import Load, NQN, wait, where
from test_nvme_methods import command, encoded, status
from test_nvme_multipath import LIMITS
from test_nvmf_ana import serve

WRITE, READ = 1, 2
HERE = os.path.dirname(os.path.realpath(__file__))


class Failover(unittest.TestCase):
    def setUp(self):
        test_nvme_multipath.TwoPaths.setUp(self)

    def serve(self, index):
        test_nvme_multipath.TwoPaths.serve(self, index)

    def io_queues(self, index):
        return len(self.targets[index].call("nvmf_subsystem_get_qpairs", nqn=NQN)) - 1

    def test_a_controller_moves_to_its_other_address_when_its_target_is_killed_and_loses_nothing(self):
        other = where(self.ports[1], multipath="failover", **LIMITS)
        load = Load(self.ports[0], "-w", "randrw", "-q", "16", "-t", "12", more_paths=[other],
                    options={"keep_alive_timeout_ms": 2000}, multipath="failover", **LIMITS)
        wait(lambda: self.io_queues(0) > 0)
        self.assertLess(self.io_queues(1), 1, "the other address is not connected")
        self.targets[0].kill()
        wait(lambda: self.io_queues(1) > 0)
        self.targets[0].start()
        self.serve(0)
        self.targets[1].kill()
        wait(lambda: self.io_queues(0) > 0)
        self.assertGreater(load.report()["reads"], 0)

    def test_other_addresses_are_listed_saved_and_removed(self):
        host = self.enterContext(Host())
        client = self.enterContext(Client(host.socket))
        attach = f"bdev_nvme_attach_controller -b Nvme0 -t TCP -f ipv4 -a 127.0.0.1 -n {NQN} -x failover -s "
        for port in self.ports:
            self.assertEqual(client.call(attach + str(port)), "Nvme0n1")
        self.assertEqual(host.refused("bdev_nvme_attach_controller", **where(self.ports[1], multipath="failover")).code, -114)
        mixed = host.refused("bdev_nvme_attach_controller", **where(free_port(), multipath="multipath"))
        self.assertEqual(mixed.code, -22)
        self.assertIn("multipath mode", mixed.message)

        def ports():
            (controller,) = host.call("bdev_nvme_get_controllers", name="Nvme0")[0]["ctrlrs"]
            others = controller.get("alternate_trids", [])
            return [int(trid["trsvcid"]) for trid in [controller["trid"], *others]]
        self.assertEqual(ports(), self.ports)
        calls = [call["params"] for call in host.call("framework_get_config", name="bdev")
                 if call["method"] == "bdev_nvme_attach_controller"]
        self.assertEqual([(call["multipath"], int(call["trsvcid"])) for call in calls],
                         [("failover", port) for port in self.ports])

        host.call("bdev_nvme_detach_controller", name="Nvme0", trsvcid=str(self.ports[0]))
        self.assertEqual(ports(), self.ports[1:])
        wait(lambda: self.io_queues(1) >= 0 and host.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]["state"] == "enabled")
        self.assertEqual(host.refused("bdev_nvme_detach_controller", name="Nvme0", trsvcid=str(self.ports[0])).code, -6)
        host.call("bdev_nvme_detach_controller", name="Nvme0", trsvcid=str(self.ports[1]))
        self.assertEqual(host.call("bdev_nvme_get_controllers"), [])


class Counted(unittest.TestCase):
    """A host with a bdev of two paths to one target, and a namespace that the host itself relays."""

    def setUp(self):
        self.target = self.enterContext(Host())
        self.ports = [free_port(), free_port()]
        serve(self.target, self.ports)
        self.host = self.enterContext(Host())
        self.client = self.enterContext(Client(self.host.socket))

    def attach(self, **options):
        self.host.call("bdev_nvme_set_options", **options)
        for port in self.ports:
            self.host.call("bdev_nvme_attach_controller", **where(port))
        nqn = "nqn.2026-01.io.drivebay:relay"
        _, port = self.host.export("Nvme0n1", nqn=nqn)
        self.host.call("bdev_nvme_attach_controller", name="Relay", trtype="TCP", traddr="127.0.0.1", trsvcid=str(port),
                       subnqn=nqn)

    def io(self, opcode, blocks=8):
        """One read or write of Nvme0n1, by a namespace that the host exports: its status."""
        io = {"cmd_type": "io", "data_direction": "c2h", "data_len": blocks * 512}
        if opcode == WRITE:
            io.update(data_direction="h2c", data=encoded(bytes(blocks * 512)))
        return status(self.host.call("bdev_nvme_send_cmd", name="Relay", cmdbuf=command(opcode, 1, dw12=blocks - 1), **io))

    def test_io_is_counted_for_each_path_and_each_thread(self):
        self.attach(io_path_stat=True, multipath_opts={"policy": "active_active", "selector": "round_robin", "min_io": 1})
        wait(lambda: self.io(READ) == (0, 0) and all(path["num_read_ops"] for path in self.stats()))
        for _ in range(4):
            self.assertEqual(self.io(WRITE, 2), (0, 0))
        stats = self.stats()
        self.assertEqual(sum(path["num_write_ops"] for path in stats), 4)
        self.assertEqual(sum(path["bytes_written"] for path in stats), 4 * 1024)
        self.assertTrue(all(path["num_write_ops"] == 2 for path in stats), stats)
        self.assertTrue(all(0 < path["min_read_latency_ticks"] <= path["max_read_latency_ticks"] for path in stats))
        shown = self.client.call("bdev_nvme_get_transport_statistics")["poll_groups"]
        (tcp,) = [transport for group in shown for transport in group["transports"]]
        self.assertEqual(tcp["trname"], "TCP")
        self.assertGreaterEqual(tcp["nvme_completions"], 5)
        self.assertGreaterEqual(tcp["submitted_requests"], tcp["nvme_completions"])
        self.assertGreater(tcp["polls"], tcp["idle_polls"])

    def stats(self):
        shown = self.client.call("bdev_nvme_get_path_iostat -b Nvme0n1")
        self.assertEqual([int(path["trid"]["trsvcid"]) for path in shown["stats"]], self.ports)
        return [path["stat"] for path in shown["stats"]]

    def test_without_the_option_paths_are_not_counted(self):
        self.attach()
        error = self.host.refused("bdev_nvme_get_path_iostat", name="Nvme0n1")
        self.assertEqual(error.code, -1)
        self.assertIn("io_path_stat", error.message)

    def test_as_many_commands_fail_as_were_asked_for_and_other_commands_do_not(self):
        self.attach(bdev_retry_count=0)
        self.assertEqual(self.io(READ), (0, 0))
        inject = "bdev_nvme_add_error_injection -n Nvme0 -t io -o 2 -u 2 -c 129"
        self.client.call(f"{inject} -e 2")
        self.assertEqual([self.io(READ)[0] for _ in range(2)], [2, 2])
        self.assertEqual([self.io(WRITE), self.io(READ)], [(0, 0), (0, 0)])

        before = self.target.call("bdev_get_iostat", name="m0")["bdevs"][0]["num_read_ops"]
        self.client.call(f"{inject} -e 5 -s")
        self.assertEqual(self.io(READ), (2, 0x81))
        self.assertEqual(self.target.call("bdev_get_iostat", name="m0")["bdevs"][0]["num_read_ops"], before)
        self.client.call("bdev_nvme_remove_error_injection -n Nvme0 -t io -o 2")
        self.assertEqual(self.io(READ), (0, 0))

        self.host.call("bdev_nvme_add_error_injection", name="Nvme0", cmd_type="admin", opc=2, sct=0, sc=6)
        self.assertEqual(self.host.refused("bdev_nvme_get_controller_health_info", name="Nvme0").code, -32603)
        self.host.call("bdev_nvme_get_controller_health_info", name="Nvme0")
        self.assertEqual(self.host.refused("bdev_nvme_add_error_injection", name="no", cmd_type="io", opc=2).code, -22)


class SavedBySpdk(unittest.TestCase):
    def test_a_configuration_that_spdk_saved_attaches_both_paths(self):
        ports = [free_port(), free_port()]
        with open(f"{HERE}/spdk-nvme-config.json") as f:
            text = f.read().replace("14420", str(ports[0])).replace("14422", str(ports[1]))
        with Host() as target, tempfile.NamedTemporaryFile("w", suffix=".json") as config:
            serve(target, ports)
            config.write(text)
            config.flush()
            with Host("-c", config.name) as host:
                disk = host.call("bdev_get_bdevs", name="Nvme0n1")[0]
                paths = [int(path["trid"]["trsvcid"]) for path in disk["driver_specific"]["nvme"]]
                self.assertEqual(paths, ports)
                saved = host.call("framework_get_config", name="bdev")
                (options,) = [call["params"] for call in saved if call["method"] == "bdev_nvme_set_options"]
                self.assertEqual((options["bdev_retry_count"], options["io_path_stat"]), (5, True))
                controllers = [call["params"] for call in saved if call["method"] == "bdev_nvme_attach_controller"]
                self.assertEqual([call["ctrlr_loss_timeout_sec"] for call in controllers], [30, 30])
                self.assertEqual(controllers[0]["hostnqn"], "nqn.2014-08.org.nvmexpress:uuid:c08f10cd-5936-4b59-ad5a-e5b8411d3cd0")


if __name__ == "__main__":
    unittest.main()
