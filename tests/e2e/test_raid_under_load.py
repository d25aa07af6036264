"""RAID under verified load, while races remove, unplug and add members."""

import random
import threading
import time
import unittest

from host import Host, RpcError, free_port
from test_nvme import NQN, Load, wait

MIB = 1 << 20
ROUNDS = 10
NAMES = ("a", "b", "c")


class Mirror:
    """raid1 of three files."""

    def __init__(self, host):
        self.host = host
        for name in NAMES:
            with open(f"{host.folder}/{name}", "wb") as file:
                file.truncate(17 * MIB)
            self.plug_in(name)
        host.call("bdev_raid_create", name="mirror", raid_level="raid1", base_bdevs=list(NAMES), superblock=True)

    def plug_in(self, name):
        self.host.call("bdev_aio_create", name=name, filename=f"{self.host.folder}/{name}", block_size=512,
                       uuid=f"00000000-0000-4000-8000-00000000000{NAMES.index(name) + 1}")

    def unplug(self, name):
        self.host.call("bdev_aio_delete", name=name)

    def remove(self, name):
        self.host.call("bdev_raid_remove_base_bdev", name=name)

    def add(self, name):
        self.host.call("bdev_raid_add_base_bdev", raid_bdev="mirror", base_bdev=name)

    def show(self):
        return self.host.call("bdev_raid_get_bdevs", category="all")[0]

    def current(self):
        """Names of the members that have all data of the array."""
        shown = self.show()
        target = shown.get("process", {}).get("target")
        return [slot["name"] for slot in shown["base_bdevs_list"] if slot["is_configured"] and slot["name"] != target]

    def is_whole(self):
        return len(self.current()) == len(NAMES)

    def bring_back(self, name):
        """Makes a bdev a member again: plugs it in if it is gone, and adds it if the array does not do that by itself."""
        wait(lambda: self.is_member(name))

    def is_member(self, name):
        if name in (slot["name"] for slot in self.show()["base_bdevs_list"]):
            return True
        for call in (self.plug_in, self.add):
            try:
                call(name)
            except RpcError as error:
                # The bdev is plugged in already, the array is taking it out or back, or it is rebuilding another member.
                assert error.code in (-1, -16, -17, -19, -22), error
        return False


def at_once(*calls):
    """Makes each call in its own thread. The bdev may be gone before the host gets to a call."""
    unexpected = []

    def make(call):
        try:
            call()
        except RpcError as error:
            if error.code != -19:
                unexpected.append(error)

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not unexpected, unexpected


class Races(unittest.TestCase):
    def test_a_mirror_loses_nothing_when_members_are_removed_unplugged_and_added_at_once_under_load(self):
        chance = random.Random(17)
        with Host() as host:
            mirror, port = Mirror(host), free_port()
            host.export("mirror", nqn=NQN, port=port)
            load = self.load(port)
            for _ in range(ROUNDS):
                if load.process.poll() is not None:  # The load has ended, and it compared what it read.
                    load.report()
                    load = self.load(port)
                name = chance.choice([name for name in NAMES if set(mirror.current()) - {name}])
                other = chance.choice([other for other in NAMES if other != name])
                calls = chance.choice([
                    (lambda: mirror.remove(name), lambda: mirror.unplug(name)),
                    (lambda: mirror.unplug(name), lambda: mirror.remove(name), lambda: mirror.remove(name)),
                    (lambda: mirror.remove(name),),
                    (lambda: mirror.unplug(name), lambda: self.add_another(mirror, other)),
                ])
                at_once(*calls)
                self.assertEqual(mirror.show()["state"], "online")
                mirror.bring_back(name)
                if chance.random() < 0.7:
                    wait(mirror.is_whole)
            for name in NAMES:
                mirror.bring_back(name)
            wait(mirror.is_whole)
            load.report()
            host.call("bdev_raid_start_scrub", name="mirror")
            scrub = wait(lambda: mirror.show()["scrub"]["state"] == "done" and mirror.show()["scrub"])
            self.assertEqual((scrub["differing_blocks"], scrub["unreadable_blocks"]), (0, 0))

    @staticmethod
    def load(port):
        return Load(port, "-w", "randrw", "-q", "16", "-t", "8")

    @staticmethod
    def add_another(mirror, name):
        """Adds a bdev. The answer depends on the race: it may be a member, another one may be leaving or being rebuilt."""
        time.sleep(0.01)
        try:
            mirror.add(name)
        except RpcError:
            pass
