"""Logical volumes under verified load: kills, operations, removal of the disk, stacks."""

import json
import os
import random
import subprocess
import tempfile
import time
import unittest

from host import Host, free_port
from test_nvme import NQN, PLUGINS, PROGRAM, Load, wait

MIB = 1 << 20
# Kills in one run. `cargo xtask soak lvol` makes many more.
KILLS = 60 if os.environ.get("DRIVEBAY_SOAK") else 5


class Store:
    """A store `store` on a file, and a host that serves its volumes over NVMe/TCP."""

    def __init__(self, host, mib=256, block_size=512):
        self.host, self.port, self.block_size = host, free_port(), block_size
        self.path = f"{host.folder}/disk"
        with open(self.path, "wb") as file:
            file.truncate(mib * MIB)
        self.push_in()
        host.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="store", cluster_sz=MIB)

    def push_in(self):
        self.host.call("bdev_aio_create", name="base", filename=self.path, block_size=self.block_size)

    def pull_out(self):
        self.host.call("bdev_aio_delete", name="base")

    def create(self, name, mib=32):
        return self.host.call("bdev_lvol_create", lvs_name="store", lvol_name=name, size_in_mib=mib,
                              thin_provision=True)

    def snapshot(self, volume, name):
        self.host.call("bdev_lvol_snapshot", lvol_name=f"store/{volume}", snapshot_name=name)

    def delete(self, name):
        self.host.call("bdev_lvol_delete", name=f"store/{name}")

    def names(self):
        return [volume["name"] for volume in self.host.call("bdev_lvol_get_lvols")]

    def checksum(self, snapshot):
        return self.host.call("bdev_lvol_get_snapshot_checksum", name=f"store/{snapshot}")["checksum"]

    def export(self, *volumes):
        first, *others = volumes
        self.host.export(f"store/{first}", nqn=NQN, port=self.port)
        for name in others:
            self.host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": f"store/{name}"})

    def assert_sound(self, is_clean):
        """Checks the file while no host has it open."""
        done = subprocess.run([PROGRAM, "lvol", "check", self.path, "--json"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["is_clean"] == is_clean, done.stdout


class Kills(unittest.TestCase):
    def test_a_host_that_is_killed_again_and_again_loses_nothing_of_thin_volumes_snapshots_and_clones(self):
        chance = random.Random(16)
        with Host() as host:
            store = Store(host)
            store.create("volume")
            store.create("origin")
            store.snapshot("origin", "parent")
            host.call("bdev_lvol_clone", snapshot_name="store/parent", clone_name="clone")
            store.export("volume", "clone")
            load = self.load(store)
            for number in range(KILLS):
                if load.process.poll() is not None:  # Its time is over, and it has compared all data.
                    load.report()
                    load = self.load(store)
                before = self.written(host)
                wait(lambda: self.written(host) > before)
                self.operate(store, number)
                sums = {name: store.checksum(name) for name in self.snapshots(store)}
                time.sleep(chance.random())  # The kill comes at a random point of the load.
                host.kill()
                store.assert_sound(is_clean=False)
                host.start()
                store.push_in()
                self.assertEqual({name: store.checksum(name) for name in self.snapshots(store)}, sums)
                store.export("volume", "clone")
            self.assertGreater(load.report(limit=300)["reads"], 0)
            host.stop()
            store.assert_sound(is_clean=True)
            host.start()

    @staticmethod
    def load(store):
        """Load on volume and clone. It continues when the host is back."""
        return Load(store.port, "-w", "randrw", "-q", "8", "-t", "40", "Nvme0n2", ctrlr_loss_timeout_sec=120,
                    reconnect_delay_sec=1)

    @staticmethod
    def written(host):
        return sum(disk["num_write_ops"] for disk in host.call("bdev_get_iostat")["bdevs"])

    @staticmethod
    def snapshots(store):
        return [name for name in store.names() if name.startswith("s")]

    @staticmethod
    def operate(store, number):
        """Takes snapshots of volume and clone, and deletes earlier ones."""
        for volume in ("volume", "clone"):
            store.snapshot(volume, f"s-{volume}-{number}")
            if number > 1:
                store.delete(f"s-{volume}-{number - 2}")


class Operations(unittest.TestCase):
    def test_a_volume_is_renamed_grown_inflated_and_its_neighbor_deleted_under_load(self):
        with Host() as host:
            store = Store(host)
            store.create("volume")
            uuid = store.create("neighbor")
            store.snapshot("volume", "parent")
            store.export("volume")
            other, port = host.export("store/neighbor", nqn=f"{NQN}2", port=free_port())
            load = Load(store.port, "-w", "randrw", "-q", "8", "-t", "8")
            doomed = Load(port, "-w", "randwrite", "-q", "8", "-t", "60", subnqn=other)
            wait(lambda: all(disk["num_write_ops"] for disk in host.call("bdev_get_iostat")["bdevs"]
                             if disk["name"] == uuid))
            host.call("bdev_lvol_rename", old_name="store/volume", new_name="renamed")
            host.call("bdev_lvol_resize", name="store/renamed", size_in_mib=48)
            self.assertEqual(host.call("bdev_get_bdevs", name="store/renamed")[0]["num_blocks"], 48 * MIB // 512)
            host.call("bdev_lvol_inflate", name="store/renamed")
            store.delete("neighbor")
            self.assertEqual(sorted(store.names()), ["parent", "renamed"])
            self.assertGreater(load.report()["writes"], 0)
            doomed.process.wait(60)
            self.assertNotEqual(doomed.process.returncode, 0)
            doomed.process.communicate()
            host.stop()
            store.assert_sound(is_clean=True)
            host.start()

    def test_what_a_copy_reads_is_not_deleted_and_a_deep_copy_reads_the_same(self):
        with Host() as host:
            store = Store(host)
            store.create("volume")
            store.export("volume")
            Load(store.port, "-w", "randrw", "-q", "8", "-n", "2000").report()
            store.snapshot("volume", "snapshot")
            host.call("bdev_malloc_create", name="other", num_blocks=32 * MIB // 512, block_size=512)
            copy = host.call("bdev_lvol_start_deep_copy", src_lvol_name="store/snapshot", dst_bdev_name="other",
                             max_bandwidth_mb_sec=16)
            error = host.refused("bdev_lvol_delete", name="store/snapshot")
            self.assertIn("deep copy", error.message)
            self.assertEqual(len(host.call("bdev_get_bdevs", name="store/snapshot")), 1)
            told = host.call("bdev_lvol_check_deep_copy", **copy)
            self.assertEqual((told["state"], told["total_clusters"]), ("in progress", 32))
            wait(lambda: host.call("bdev_lvol_check_deep_copy", **copy)["state"] == "complete")
            self.assertEqual(host.refused("bdev_lvol_check_deep_copy", **copy).code, -19)
            # A snapshot of a volume whose parent is the copy reads the data of the copy.
            host.call("bdev_lvol_clone_bdev", bdev="other", lvs_name="store", clone_name="outside")
            store.snapshot("outside", "same")
            self.assertEqual(store.checksum("same"), store.checksum("snapshot"))


class PulledOut(unittest.TestCase):
    def test_a_disk_that_is_pulled_out_under_load_and_pushed_back_at_once_has_its_volumes(self):
        with Host() as host:
            store = Store(host)
            store.create("volume")
            store.snapshot("volume", "snapshot")
            checksum = store.checksum("snapshot")
            for _ in range(5):
                store.export("volume")
                load = Load(store.port, "-w", "randwrite", "-q", "8", "-t", "60")
                wait(lambda: any(disk["num_write_ops"] for disk in host.call("bdev_get_iostat")["bdevs"]))
                store.pull_out()
                store.push_in()
                self.assertEqual(store.names(), ["volume", "snapshot"])
                self.assertEqual(store.checksum("snapshot"), checksum)
                host.call("nvmf_delete_subsystem", nqn=NQN)
                load.process.kill()
                load.process.communicate()
            host.stop()
            store.assert_sound(is_clean=True)
            host.start()

    def test_a_store_is_repaired_right_after_an_unmap(self):
        with Host() as host:
            store = Store(host)
            store.create("volume")
            store.snapshot("volume", "snapshot")
            for _ in range(5):
                store.delete("snapshot")
                host.call("bdev_lvol_repair_lvstore", bdev_name="base", write=True)
                store.snapshot("volume", "snapshot")


class Stacks(unittest.TestCase):
    """Runs `drivebay perf` with the volumes in its process. It compares the data that it reads with the data that it
    wrote."""

    def verify(self, *calls):
        with tempfile.TemporaryDirectory() as folder:
            command = [PROGRAM, "perf", "--json", "--plugin-dir", PLUGINS, "--verify", "-w", "randrw", "-q", "8",
                       "-n", "1000", "top/volume"]
            for method, params in calls:
                command += ["--rpc", f"{method} {json.dumps(params)}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120,
                                  env={**os.environ, "DRIVEBAY_RUNTIME": folder})
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertGreater(json.loads(done.stdout)["reports"][0]["reads"], 0)

    @staticmethod
    def disk(name, block_size=512, mib=64):
        return "bdev_malloc_create", {"name": name, "num_blocks": mib * MIB // block_size, "block_size": block_size}

    @staticmethod
    def store(base, name="top", cluster=MIB):
        return "bdev_lvol_create_lvstore", {"bdev_name": base, "lvs_name": name, "cluster_sz": cluster}

    @staticmethod
    def volume(store="top", mib=16):
        return "bdev_lvol_create", {"lvs_name": store, "lvol_name": "volume", "size_in_mib": mib,
                                    "thin_provision": True}

    def test_stores_on_disks_with_blocks_of_512_and_of_4096_bytes(self):
        for block_size in (512, 4096):
            with self.subTest(block_size=block_size):
                self.verify(self.disk("base", block_size), self.store("base"), self.volume())

    def test_a_store_on_a_volume_of_another_store(self):
        self.verify(self.disk("base"), self.store("base", "bottom"), self.volume("bottom", 48),
                    self.store("bottom/volume", cluster=64 << 10), self.volume())

    def test_a_store_on_a_mirror_and_on_a_part_of_a_disk(self):
        mirror = "bdev_raid_create", {"name": "mirror", "raid_level": "raid1", "base_bdevs": ["one", "two"]}
        self.verify(self.disk("one"), self.disk("two"), mirror, self.store("mirror"), self.volume())
        self.verify(self.disk("one"), ("bdev_split_create", {"base_bdev": "one", "split_count": 2}),
                    self.store("onep1"), self.volume(mib=8))


if __name__ == "__main__":
    unittest.main()
