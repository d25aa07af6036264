"""RAID: PyPI's `spdk` client calls the methods; arrays start again after a kill."""

import subprocess
import time
import unittest

from host import Host
from replica import Mirror
from spdk_client import Client, Refused

KIB = 1 << 10
MIB = 1 << 20
# Seconds that a rebuild of a few MiB may take.
LIMIT = 30


class EveryMethod(unittest.TestCase):
    def test_the_reference_client_makes_degrades_rebuilds_and_deletes_arrays(self):
        with Host() as host, Client(host.socket) as client:
            call = client.call
            for name in ("a", "b", "c", "d"):
                call(f"bdev_malloc_create -b {name} 8 512")
            call("bdev_raid_set_options -w 256 -b 1000")
            call("bdev_raid_create -n mirror -r raid1 -b 'a b' -s")
            array = call("bdev_get_bdevs -b mirror")[0]
            self.assertEqual((array["product_name"], array["num_blocks"]), ("Raid Volume", 7 * MIB // 512))
            self.assertEqual(array["driver_specific"]["raid"]["raid_level"], "raid1")
            self.assertEqual(call("bdev_get_bdevs -b a")[0]["claim_type"], "exclusive_write")
            call("bdev_raid_remove_base_bdev b")
            shown = call("bdev_raid_get_bdevs online")[0]
            self.assertEqual((shown["num_base_bdevs_operational"], shown["base_bdevs_list"][1]["name"]), (1, None))
            call("bdev_raid_add_base_bdev mirror c")
            wait_until_rebuilt(host, "mirror")
            # Bdev b still has the superblock of the mirror.
            with self.assertRaisesRegex(Refused, "Superblock of a different raid bdev"):
                call("bdev_raid_create -n strips -r 0 -z 64 -b b")
            call("bdev_raid_create -n strips -r 0 -z 64 -b d")
            with self.assertRaisesRegex(Refused, "File exists"):
                call("bdev_raid_create -n strips -r 0 -z 64 -b x")
            call("bdev_raid_delete mirror")
            call("bdev_raid_delete strips")
            self.assertEqual(call("bdev_raid_get_bdevs all"), [])
            self.assertEqual(host.refused("bdev_raid_delete", name="mirror").code, -19)

    def test_an_array_without_a_superblock_is_saved_and_one_with_it_is_not(self):
        with Host() as host:
            for name in ("a", "b", "c"):
                host.call("bdev_malloc_create", name=name, num_blocks=16384, block_size=512)
            host.call("bdev_raid_create", name="saved", raid_level="concat", strip_size_kb=4, base_bdevs=["a", "later"])
            host.call("bdev_raid_create", name="found", raid_level="raid1", base_bdevs=["b", "c"], superblock=True)
            saved = host.call("framework_get_config", name="bdev")
            arrays = [call["params"] for call in saved if call["method"] == "bdev_raid_create"]
            self.assertEqual([array["name"] for array in arrays], ["saved"])
            self.assertEqual(arrays[0]["base_bdevs"], ["a", "later"])


class AfterAKill(unittest.TestCase):
    def test_a_mirror_is_found_degraded_takes_its_stale_member_back_and_waits_for_the_newest(self):
        with Host() as host:
            for name in ("a", "b"):
                with open(f"{host.folder}/{name}", "wb") as file:
                    file.truncate(8 * MIB)
                self.add(host, name)
            host.call("bdev_raid_create", name="mirror", raid_level="raid1", base_bdevs=["a", "b"], superblock=True)
            host.call("bdev_raid_remove_base_bdev", name="b")
            host.kill()

            host.start()
            host.call("bdev_raid_set_options")
            self.add(host, "b")
            host.call("bdev_wait_for_examine")
            self.assertEqual(self.state(host), "configuring")
            self.add(host, "a")
            host.call("bdev_wait_for_examine")
            self.assertEqual(self.state(host), "online")
            wait_until_rebuilt(host, "mirror")

    @staticmethod
    def add(host, name):
        number = {"a": 1, "b": 2}[name]
        host.call("bdev_aio_create", name=name, filename=f"{host.folder}/{name}", block_size=512,
                  uuid=f"00000000-0000-4000-8000-00000000000{number}")

    @staticmethod
    def state(host):
        return host.call("bdev_raid_get_bdevs", category="all")[0]["state"]


class Growth(unittest.TestCase):
    def test_a_mirror_grows_with_its_files_gets_a_third_member_and_keeps_both_after_a_kill(self):
        with Host() as host:
            files = {name: f"{host.folder}/{name}" for name in ("a", "b", "c")}
            for name, file in files.items():
                self.resize(file, 8 * MIB)
                self.add(host, name, file)
            host.call("bdev_raid_create", name="mirror", raid_level="raid1", base_bdevs=["a", "b"], superblock=True)
            for name in ("a", "b"):
                self.assertEqual(self.size(host), 7 * MIB)
                self.resize(files[name], 16 * MIB)
                host.call("bdev_aio_rescan", name=name)
            wait_until(lambda: self.size(host) == 15 * MIB)
            grow = {"raid_name": "mirror", "base_name": "c"}
            self.assertEqual(host.refused("bdev_raid_grow_base_bdev", **grow).code, -22)
            self.resize(files["c"], 16 * MIB)
            host.call("bdev_aio_rescan", name="c")
            served = Served(host, "mirror", 15 * MIB)
            served.write(0, 15 * MIB, 7)
            host.call("bdev_raid_grow_base_bdev", **grow)
            wait_until_rebuilt(host, "mirror")
            served.write(14 * MIB, MIB, 8)
            host.kill()

            host.start()
            host.call("bdev_raid_set_options")  # loads the plugin
            for name in ("c", "b", "a"):
                self.add(host, name, files[name])
            host.call("bdev_wait_for_examine")
            self.assertEqual(self.size(host), 15 * MIB)
            for name in ("a", "b"):
                host.call("bdev_raid_remove_base_bdev", name=name)
            again = Served(host, "mirror", 15 * MIB)
            again.model = served.model
            again.check()

    @staticmethod
    def resize(file, size):
        with open(file, "ab") as opened:
            opened.truncate(size)

    @staticmethod
    def add(host, name, file):
        number = "abc".index(name)
        host.call("bdev_aio_create", name=name, filename=file, block_size=512,
                  uuid=f"00000000-0000-4000-8000-00000000000{number + 1}")

    @staticmethod
    def size(host):
        return host.call("bdev_get_bdevs", name="mirror")[0]["num_blocks"] * 512


class Served:
    """An array behind an NBD server, and a model of its contents."""

    def __init__(self, host, name, size):
        self.host, self.size, self.model = host, size, bytearray(size)
        path = f"{host.folder}/nbd.sock"
        host.call("nbd_create_server", name="server", path=path)
        host.call("nbd_server_add_export", server="server", bdev_name=name)
        self.uri = f"nbd+unix:///{name}?socket={path}"

    def write(self, offset, length, byte):
        self.run("qemu-io", "-f", "raw", "-c", f"write -q -P {byte} {offset} {length}", "-c", "flush", self.uri)
        self.model[offset:offset + length] = bytes([byte]) * length

    def check(self):
        path = f"{self.host.folder}/read"
        with open(path, "wb"):
            pass
        self.run("nbdcopy", "--request-size=131072", self.uri, path)
        with open(path, "rb") as file:
            data = file.read()
        if data != self.model:
            block = next(at for at in range(0, self.size, 512) if data[at:at + 512] != self.model[at:at + 512])
            raise AssertionError(f"byte {block}: {data[block]} instead of {self.model[block]}")

    @staticmethod
    def run(*command):
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout}"


class Parity(unittest.TestCase):
    def test_raid5f_reads_what_was_written_without_any_of_its_members_and_after_rebuilds(self):
        with Host() as host:
            for name in ("a", "b", "c"):
                host.call("bdev_malloc_create", name=name, num_blocks=16384, block_size=512)
            host.call("bdev_raid_create", name="parity", raid_level="raid5f", strip_size_kb=64,
                      base_bdevs=["a", "b", "c"], superblock=True)
            self.assertEqual(host.call("bdev_get_bdevs", name="parity")[0]["num_blocks"], 14 * MIB // 512)
            served = Served(host, "parity", 14 * MIB)
            served.write(0, 14 * MIB, 1)
            for number, name in enumerate(("a", "b", "c")):
                served.write(128 * KIB * (number + 1), 256 * KIB, number + 2)
                host.call("bdev_raid_remove_base_bdev", name=name)
                served.check()
                served.write(128 * KIB * (number + 20), 128 * KIB, number + 5)
                served.check()
                host.call("bdev_raid_add_base_bdev", raid_bdev="parity", base_bdev=name)
                wait_until_rebuilt(host, "parity")
                served.check()


class OverTheNetwork(unittest.TestCase):
    SIZE = 32 * MIB

    def test_a_replica_whose_host_was_killed_gets_only_what_changed_even_if_that_is_killed_too(self):
        with Host() as target, Host() as host:
            mirror = Mirror(host, target, self.SIZE)
            served = Served(host, "mirror", self.SIZE)
            for region in range(0, 32, 4):
                served.write(region * MIB + 12 * KIB, 64 * KIB, region + 1)

            # The next write waits until the loss of the replica is on record.
            mirror.kill_replica()
            served.write(5 * MIB, 4 * KIB, 50)
            served.write(9 * MIB, 4 * KIB, 51)
            self.assertEqual(mirror.show()["num_base_bdevs_discovered"], 1)
            served.check()
            mirror.bring_back_replica()
            # The eight regions that had a mark, and the two that were written since.
            self.assertLessEqual(mirror.wait_until_rebuilt(), 10 * MIB)
            served.check()

            mirror.kill_replica()
            for region in range(12):
                served.write(region * MIB + 100 * KIB, 4 * KIB, 60 + region)
            mirror.bring_back_and_kill_in_resync()
            served.write(20 * MIB, 4 * KIB, 90)
            mirror.bring_back_replica()
            self.assertLess(mirror.wait_until_rebuilt(), self.SIZE)
            host.call("bdev_raid_remove_base_bdev", name="local")
            served.check()


def wait_until(is_done):
    end = time.monotonic() + LIMIT
    while not is_done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def wait_until_rebuilt(host, name):
    end = time.monotonic() + LIMIT
    while True:
        array = next(array for array in host.call("bdev_raid_get_bdevs", category="online") if array["name"] == name)
        if "process" not in array and array["num_base_bdevs_discovered"] == array["num_base_bdevs"]:
            return
        assert time.monotonic() < end, f"{name} is not rebuilt: {array}"
        time.sleep(0.05)
