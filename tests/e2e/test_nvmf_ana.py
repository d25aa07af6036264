"""Asymmetric namespace access (ANA) of the NVMe-oF target. SPDK's client from PyPI sets the states, and our initiator
follows them under load."""

import time
import unittest

from host import Host, address, free_port
from spdk_client import Client
from test_nvme import Load, NQN, wait, where


def serve(host, ports):
    """Serves one disk with several listeners, with ANA."""
    host.call("bdev_malloc_create", name="m0", num_blocks=65536, block_size=512)
    host.call("nvmf_create_transport", trtype="TCP")
    host.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="TEST", ana_reporting=True)
    host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m0"})
    for port in ports:
        host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(port))


def set_state(host, port, state, **group):
    host.call("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=address(port), ana_state=state, **group)


def state_of(host, port, group=1):
    for listener in host.call("nvmf_subsystem_get_listeners", nqn=NQN):
        if listener["address"]["trsvcid"] == str(port):
            return {state["ana_group"]: state["ana_state"] for state in listener["ana_states"]}[group]


class Methods(unittest.TestCase):
    def test_pypi_s_client_sets_states_and_groups_and_the_saved_configuration_keeps_them(self):
        first, second = free_port(), free_port()
        with Host() as host, Client(host.socket) as client:
            host.call("bdev_null_create", name="n0", num_blocks=4096, block_size=512)
            client.call("nvmf_create_transport -t TCP")
            client.call(f"nvmf_create_subsystem {NQN} -a -r -m 8")
            client.call(f"nvmf_subsystem_add_ns {NQN} n0 -n 2 --anagrpid 3")
            client.call(f"nvmf_subsystem_add_listener {NQN} -t TCP -a 127.0.0.1 -s {first}")
            client.call(f"nvmf_subsystem_add_listener {NQN} -t TCP -a 127.0.0.1 -s {second} -n non_optimized")
            there = f"-t TCP -a 127.0.0.1 -s {second}"
            client.call(f"nvmf_subsystem_listener_set_ana_state {NQN} -n inaccessible {there} -g 3")
            client.call(f"nvmf_subsystem_set_ns_ana_group {NQN} 2 5")
            (namespace,) = host.call("nvmf_get_subsystems", nqn=NQN)[0]["namespaces"]
            self.assertEqual((namespace["nsid"], namespace["anagrpid"]), (2, 5))

            refused = host.refused("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=address(second),
                                   ana_state="optimized", anagrpid=9)
            self.assertEqual(refused.code, -32602)
            self.assertIn("1 to 8", refused.message)
            self.assertEqual(host.refused("nvmf_subsystem_set_ns_ana_group", nqn=NQN, nsid=7, anagrpid=1).code, -32602)

            calls = [(call["method"], call["params"]) for call in host.call("framework_get_config", name="nvmf")]
            host.stop()
            host.start()
            host.call("bdev_null_create", name="n0", num_blocks=4096, block_size=512)
            for method, params in calls:
                host.call(method, **params)
            self.assertEqual((state_of(host, first, 3), state_of(host, second, 3)), ("optimized", "inaccessible"))
            self.assertEqual(state_of(host, second, 5), "non_optimized")
            self.assertEqual(host.call("nvmf_get_subsystems", nqn=NQN)[0]["namespaces"][0]["anagrpid"], 5)


class TwoListeners(unittest.TestCase):
    def setUp(self):
        self.target = self.enterContext(Host())
        self.ports = [free_port(), free_port()]
        serve(self.target, self.ports)

    def load(self, *flags):
        return Load(self.ports[0], "-w", "randrw", "-q", "16", *flags, more_paths=[where(self.ports[1])])

    def num_ios(self):
        disk = self.target.call("bdev_get_iostat", name="m0")["bdevs"][0]
        return disk["num_read_ops"] + disk["num_write_ops"]

    def io_goes_on(self, load):
        """Waits for more I/O. Returns False if the load has ended: a slow machine may not reach the last turn of a test in time."""
        before = self.num_ios()
        wait(lambda: load.process.poll() is not None or self.num_ios() > before + 200)
        return load.process.poll() is None

    def test_io_follows_the_state_of_the_listeners_and_nothing_is_lost(self):
        set_state(self.target, self.ports[1], "inaccessible")
        load = self.load("-t", "8")
        turns = 0
        while turns < 8 and self.io_goes_on(load):
            turn, turns = turns, turns + 1
            serving, other = self.ports[turn % 2 ^ 1], self.ports[turn % 2]
            # For a moment no listener serves the disk, so the I/O waits.
            set_state(self.target, other, "inaccessible")
            time.sleep(0.05)
            set_state(self.target, serving, "non_optimized" if turn % 3 else "optimized")
        self.io_goes_on(load)
        report = load.report()
        self.assertGreater(report["reads"], 0)
        self.assertGreaterEqual(turns, 2)

    def test_a_namespace_that_changes_its_group_is_followed(self):
        set_state(self.target, self.ports[0], "inaccessible", anagrpid=2)
        set_state(self.target, self.ports[1], "inaccessible", anagrpid=1)
        load = self.load("-t", "5")
        moves = 0
        while moves < 4 and self.io_goes_on(load):
            moves += 1
            self.target.call("nvmf_subsystem_set_ns_ana_group", nqn=NQN, nsid=1, anagrpid=moves % 2 + 1)
        self.io_goes_on(load)
        self.assertGreater(load.report()["reads"], 0)
        self.assertGreaterEqual(moves, 2)

    def test_the_initiator_shows_the_states(self):
        with Host() as host:
            for port in self.ports:
                host.call("bdev_nvme_attach_controller", **where(port))
            set_state(self.target, self.ports[1], "inaccessible")
            def states():
                disk = host.call("bdev_get_bdevs", name="Nvme0n1")[0]
                return [path["ns_data"]["ana_state"] for path in disk["driver_specific"]["nvme"]]
            wait(lambda: states() == ["optimized", "inaccessible"])


if __name__ == "__main__":
    unittest.main()
