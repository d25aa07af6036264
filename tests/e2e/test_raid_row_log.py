"""raid5 and raid6 on two reactors under verified load: members leave, the host is killed, and nothing is lost."""

import time
import unittest

from host import Host, free_port
from test_nvme import NQN, Load, wait

MIB = 1 << 20
NAME = "rows"
# Seconds that a busy machine may take to rebuild two members under load.
LIMIT = 180


class Array:
    """An array of files on a host with two reactors, exported over NVMe/TCP."""

    def __init__(self, host, level, members):
        self.host, self.port = host, free_port()
        self.members = [f"m{number}" for number in range(members)]
        for name in self.members:
            with open(f"{host.folder}/{name}", "wb") as file:
                file.truncate(10 * MIB)
            self.plug_in(name)
        host.call("bdev_raid_create", name=NAME, raid_level=level, strip_size_kb=64, base_bdevs=self.members,
                  superblock=True)
        self.export()

    def plug_in(self, name):
        self.host.call("bdev_aio_create", name=name, filename=f"{self.host.folder}/{name}", block_size=512,
                       uuid=f"00000000-0000-4000-8000-00000000000{self.members.index(name) + 1}")

    def export(self):
        self.host.export(NAME, nqn=NQN, port=self.port)

    def keep_loaded(self, load=None):
        """A load that runs. It reads and writes parts of rows: less than a strip, and parts of two."""
        if load is not None:
            if load.process.poll() is None:
                return load
            load.report()  # It has ended, and it compared what it read.
        load = Load(self.port, "-m", "0x3", "-w", "randrw", "-o", "24K", "-q", "24", "-t", "10",
                    ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
        wait(lambda: len(self.threads()) == 2)
        return load

    def threads(self):
        """The threads that have connections for I/O."""
        return {pair["thread"] for pair in self.host.call("nvmf_subsystem_get_qpairs", nqn=NQN) if pair["qid"] > 0}

    def kill(self):
        """Kills the host, starts it again and plugs the members in, the last one first."""
        self.host.kill()
        self.host.start()
        self.host.call("bdev_raid_set_options")  # Loads the plugin.
        for name in reversed(self.members):
            self.plug_in(name)
        wait(lambda: self.host.call("bdev_raid_get_bdevs", category="online"))
        # The array does not take a member back that the test removes later.
        self.host.call("bdev_wait_for_examine")
        self.export()

    def remove(self, name):
        self.host.call("bdev_raid_remove_base_bdev", name=name)

    def show(self):
        return self.host.call("bdev_raid_get_bdevs", category="all")[0]

    def wait_until_whole(self):
        """Waits until all members are current, and the parity of the new array is computed."""
        wait(self.is_whole, LIMIT)
        wait(lambda: "all copies are equal again" in self.host.log(1000), LIMIT)

    def is_whole(self):
        shown = self.show()
        return "process" not in shown and shown["num_base_bdevs_discovered"] == shown["num_base_bdevs"]

    def scrub(self):
        """Numbers of the blocks that differ, and of those that cannot be read."""
        self.host.call("bdev_raid_start_scrub", name=NAME)
        scrub = wait(lambda: self.show()["scrub"]["state"] == "done" and self.show()["scrub"], LIMIT)
        return scrub["differing_blocks"], scrub["unreadable_blocks"]


class UnderLoad(unittest.TestCase):
    def test_raid5_loses_nothing_without_a_member_and_when_its_host_is_killed(self):
        self.lose_members_and_kill("raid5", 3, lost=["m1"])

    def test_raid6_loses_nothing_without_two_members_and_when_its_host_is_killed(self):
        self.lose_members_and_kill("raid6", 4, lost=["m1", "m3"])

    def lose_members_and_kill(self, level, members, lost):
        with Host("-m", "0x3") as host:
            array = Array(host, level, members)
            load = array.keep_loaded()
            # With all members: the row log alone completes the writes that the kill interrupts.
            time.sleep(1)
            array.kill()
            array.wait_until_whole()
            load = array.keep_loaded(load)
            for name in lost:
                array.remove(name)
                time.sleep(1)
            # Without as many members as the level can lose.
            self.assertEqual(array.show()["num_base_bdevs_discovered"], members - len(lost))
            load = array.keep_loaded(load)
            array.kill()
            # The array takes the members back.
            array.wait_until_whole()
            load = array.keep_loaded(load)
            array.remove(array.members[0])
            self.assertGreater(load.report()["reads"], 0)
            host.call("bdev_raid_add_base_bdev", raid_bdev=NAME, base_bdev=array.members[0])
            array.wait_until_whole()
            self.assertEqual(array.scrub(), (0, 0))


if __name__ == "__main__":
    unittest.main()
