"""Discovery services that the NVMe plugin follows."""

import unittest

from host import Host, address, free_port
from spdk_client import Client
from test_nvme import wait

PREFIX = "nqn.2026-01.io.drivebay:disk"


class Follow(unittest.TestCase):
    def setUp(self):
        self.target, self.host = self.enterContext(Host()), self.enterContext(Host())
        self.client = self.enterContext(Client(self.host.socket))
        self.port = free_port()
        for index in (0, 1):
            self.add(index)

    def add(self, index):
        self.target.call("bdev_malloc_create", name=f"m{index}", num_blocks=8192, block_size=512)
        self.target.export(f"m{index}", nqn=f"{PREFIX}{index}", port=self.port)

    def bdevs(self):
        return {disk["name"] for disk in self.host.call("bdev_get_bdevs")}

    def start(self, more="-w"):
        self.client.call(f"bdev_nvme_start_discovery -b Disk -t tcp -a 127.0.0.1 -f ipv4 -s {self.port} {more}")

    def test_what_a_service_names_is_attached_and_detached_as_its_log_changes(self):
        self.start()
        self.assertEqual(self.bdevs(), {"Disk0n1", "Disk1n1"})
        self.add(2)
        wait(lambda: "Disk2n1" in self.bdevs())
        self.target.call("nvmf_delete_subsystem", nqn=f"{PREFIX}0")
        wait(lambda: self.bdevs() == {"Disk1n1", "Disk2n1"})
        # A second address of a subsystem is a second path to the same bdev.
        second = free_port()
        self.target.call("nvmf_subsystem_add_listener", nqn=f"{PREFIX}1", listen_address=address(second))
        paths = lambda: self.host.call("bdev_get_bdevs", name="Disk1n1")[0]["driver_specific"]["nvme"]
        wait(lambda: {path["trid"]["trsvcid"] for path in paths()} == {str(self.port), str(second)})
        self.client.call("bdev_nvme_stop_discovery -b Disk")
        self.assertEqual((self.bdevs(), self.host.call("bdev_nvme_get_controllers")), (set(), []))

    def test_services_are_listed_with_the_ones_that_they_name_and_are_saved(self):
        self.target.call("nvmf_discovery_add_referral", address=address(4420, "192.0.2.7"))
        self.start()
        service = self.client.call("bdev_nvme_get_discovery_info")[0]
        self.assertEqual((service["name"], service["trid"]["trsvcid"]), ("Disk", str(self.port)))
        self.assertEqual([one["trid"]["traddr"] for one in service["referrals"]], ["192.0.2.7"])
        # The configuration does not have the controllers, because the service reports them again.
        saved = [call["method"] for call in self.host.call("framework_get_config", name="bdev")]
        self.assertIn("bdev_nvme_start_discovery", saved)
        self.assertNotIn("bdev_nvme_attach_controller", saved)
        again = {"trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": str(self.port)}
        self.assertEqual(self.host.refused("bdev_nvme_start_discovery", name="Other", **again).code, -17)
        self.assertEqual(self.host.refused("bdev_nvme_stop_discovery", name="Other").code, -2)
        self.target.kill()
        self.target.start()
        self.add(0)
        wait(lambda: self.bdevs() == {"Disk0n1"})

    def test_a_service_that_does_not_answer_in_time_is_not_followed(self):
        with self.assertRaisesRegex(AssertionError, "not done after"):
            dead = free_port()
            self.client.call(f"bdev_nvme_start_discovery -b Disk -t tcp -a 127.0.0.1 -f ipv4 -s {dead} -T 500")
        self.assertEqual(self.host.call("bdev_nvme_get_discovery_info"), [])


if __name__ == "__main__":
    unittest.main()
