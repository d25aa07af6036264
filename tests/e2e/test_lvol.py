"""Logical volumes: PyPI's `spdk` client through every method; a store after a kill."""

import json
import os
import subprocess
import unittest

from host import Host
from spdk_client import Client, Refused
from test_nvme import wait

MIB = 1 << 20


class EveryMethod(unittest.TestCase):
    """One host with a RAM disk; each call is as a person types it."""

    def test_the_reference_client_makes_uses_and_deletes_stores_and_volumes(self):
        with Host() as host, Client(host.socket) as client:
            call = client.call
            call("bdev_malloc_create -b Malloc0 64 512")
            call("bdev_malloc_create -b Malloc1 8 512")
            store = call("bdev_lvol_create_lvstore Malloc0 store -c 1048576")
            self.assertEqual(call("bdev_lvol_get_lvstores -l store")[0]["uuid"], store)
            self.assertEqual(call(f"bdev_lvol_get_lvstores -u {store}")[0]["cluster_size"], MIB)
            thick = call("bdev_lvol_create -l store thick 4")
            thin = call("bdev_lvol_create -l store -t thin 16")
            self.assertEqual(call(f"bdev_get_bdevs -b {thick}")[0]["num_blocks"], 4 * MIB // 512)
            self.assertEqual(call("bdev_get_bdevs -b store/thin")[0]["name"], thin)
            lvol = call(f"bdev_get_bdevs -b {thin}")[0]["driver_specific"]["lvol"]
            self.assertEqual((lvol["lvol_store_uuid"], lvol["base_bdev"]), (store, "Malloc0"))
            self.assertTrue(lvol["thin_provision"])

            call(f"bdev_lvol_snapshot {thin} snap")
            call("bdev_lvol_clone store/snap clone")
            self.assertTrue(self.volume(call, "clone")["is_clone"])
            self.assertTrue(self.volume(call, "snap")["is_snapshot"])
            with self.assertRaisesRegex(Refused, "Operation not permitted"):
                call("bdev_lvol_delete store/snap")
            call("bdev_lvol_inflate store/clone")
            self.assertEqual(self.volume(call, "clone")["num_allocated_clusters"], 16)
            call("bdev_lvol_decouple_parent store/thin")
            self.assertFalse(self.volume(call, "thin")["is_clone"])
            call("bdev_lvol_resize store/thin 20")
            self.assertEqual(call(f"bdev_get_bdevs -b {thin}")[0]["num_blocks"], 20 * MIB // 512)
            call("bdev_lvol_rename store/thin renamed")
            self.assertEqual(self.volume(call, "renamed")["uuid"], thin)
            call("bdev_lvol_clone_bdev Malloc1 store outside")
            self.assertTrue(self.volume(call, "outside")["is_esnap_clone"])
            self.change_parents_and_copy(call)
            call("bdev_lvol_set_read_only store/thick")
            call("bdev_lvol_rename_lvstore store pool")
            self.assertEqual(self.volume(call, "renamed")["alias"], "pool/renamed")
            call("bdev_lvol_grow_lvstore -l pool")
            for name in ("child", "clone", "snap", "renamed", "outside", "thick", "base"):
                call(f"bdev_lvol_delete pool/{name}")
            self.assertEqual(call("bdev_lvol_get_lvols"), [])
            call("bdev_lvol_delete_lvstore -l pool")
            self.assertEqual(call("bdev_lvol_get_lvstores"), [])

    def change_parents_and_copy(self, call):
        for name in ("Malloc2", "Malloc3"):
            call(f"bdev_malloc_create -b {name} 4 512")
        call("bdev_lvol_snapshot store/thick base")
        call("bdev_lvol_create -l store -t child 4")
        call("bdev_lvol_set_parent store/child store/base")
        child = self.volume(call, "child")
        self.assertEqual((child["is_clone"], child["is_esnap_clone"]), (True, False))
        call("bdev_lvol_set_parent_bdev store/child Malloc2")
        child = self.volume(call, "child")
        self.assertEqual((child["is_clone"], child["is_esnap_clone"]), (False, True))
        copy = call("bdev_lvol_start_shallow_copy store/base Malloc3")["operation_id"]
        wait(lambda: call(f"bdev_lvol_check_shallow_copy {copy}")["state"] == "complete")

    @staticmethod
    def volume(call, name):
        return next(volume for volume in call("bdev_lvol_get_lvols") if volume["name"] == name)


class Names(unittest.TestCase):
    def test_a_renamed_volume_or_store_is_found_by_its_new_alias_at_once_and_not_by_its_old_one(self):
        with Host() as host:
            host.call("bdev_malloc_create", name="base", num_blocks=64 * MIB // 512, block_size=512)
            host.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="store", cluster_sz=MIB)
            uuid = host.call("bdev_lvol_create", lvs_name="store", lvol_name="v", size_in_mib=4)
            host.call("bdev_lvol_create", lvs_name="store", lvol_name="other", size_in_mib=4)
            host.call("bdev_lvol_rename", old_name="store/v", new_name="w")
            self.assertEqual(host.call("bdev_get_bdevs", name="store/w")[0]["name"], uuid)
            self.assertEqual(host.refused("bdev_get_bdevs", name="store/v").code, -19)
            host.refused("bdev_lvol_rename", old_name="store/w", new_name="other")
            self.assertEqual(host.call("bdev_get_bdevs", name="store/w")[0]["aliases"], ["store/w"])
            host.call("bdev_lvol_rename_lvstore", old_name="store", new_name="pool")
            self.assertEqual(host.call("bdev_get_bdevs", name="pool/w")[0]["name"], uuid)
            self.assertEqual(host.refused("bdev_get_bdevs", name="store/w").code, -19)


def new_disk(host):
    """A file for a disk of 64 MiB; its path."""
    path = f"{host.folder}/disk"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    return path


def make_store(host, path):
    """Makes a store with a volume on a file."""
    host.call("bdev_aio_create", name="base", filename=path, block_size=512)
    host.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="store", cluster_sz=MIB)
    host.call("bdev_lvol_create", lvs_name="store", lvol_name="v", size_in_mib=8)


def lvol(*arguments):
    """Exit code and report of `drivebay lvol`, or its error message without a report."""
    done = subprocess.run([os.environ["DRIVEBAY_BIN"], "lvol", *arguments, "--json"],
                          capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


class Clusters(unittest.TestCase):
    def test_a_map_says_which_clusters_are_a_volumes_own_and_an_xattr_stays_over_a_restart(self):
        with Host() as host:
            path = new_disk(host)
            make_store(host, path)
            host.call("bdev_lvol_create", lvs_name="store", lvol_name="thin", size_in_mib=16, thin_provision=True)
            thick = host.call("bdev_lvol_get_fragmap", name="store/v")
            self.assertEqual((thick["num_clusters"], thick["num_allocated_clusters"], thick["fragmap"]), (8, 8, "/w=="))
            thin = host.call("bdev_lvol_get_fragmap", name="store/thin")
            self.assertEqual((thin["num_clusters"], thin["num_allocated_clusters"], thin["fragmap"]), (16, 0, "AAA="))
            error = host.refused("bdev_lvol_get_fragmap", name="store/thin", offset=1)
            self.assertIn("offset", error.message)
            host.call("bdev_lvol_set_xattr", name="store/v", xattr_name="owner", xattr_value="web")
            self.assertEqual(host.refused("bdev_lvol_set_xattr", name="store/v", xattr_name="uuid",
                                          xattr_value="x").code, -32602)
            host.call("bdev_lvol_set_read_only", name="store/v")
            host.refused("bdev_lvol_set_xattr", name="store/v", xattr_name="owner")
            found = host.call("bdev_lvol_check_lvstore", bdev_name="base")
            self.assertEqual(found["findings"], [])
            host.stop()
            host.start()
            host.call("bdev_aio_create", name="base", filename=path, block_size=512)
            self.assertEqual(len(host.call("bdev_lvol_get_lvols")), 2)
            self.assertEqual(host.call("bdev_lvol_get_xattr", name="store/v", xattr_name="owner"), "web")



class CheckAndRepair(unittest.TestCase):
    def test_a_store_is_checked_and_repaired_under_a_host_and_in_its_file(self):
        with Host() as host:
            path = new_disk(host)
            make_store(host, path)
            code, report = lvol("check", "base", "-r", host.socket)
            self.assertEqual((code, report["findings"], report["used_data_clusters"]), (0, [], 8))
            code, said = lvol("check", path)
            self.assertEqual(code, 3)
            self.assertIn("in use", said)
            code, report = lvol("repair", "base", "--write", "-r", host.socket)
            self.assertEqual((code, report["findings"]), (0, []))
            self.assertEqual(host.call("bdev_get_bdevs", name="store/v")[0]["num_blocks"], 8 * MIB // 512)
            host.stop()
            code, report = lvol("check", path)
            self.assertEqual((code, report["name"], report["is_clean"]), (0, "store", True))
            self.leak_a_cluster(path)
            for arguments in (("check", path), ("repair", path)):
                code, report = lvol(*arguments)
                self.assertEqual((code, [one["severity"] for one in report["findings"]]), (1, ["leak"]))
            self.assertEqual(lvol("repair", path, "--write")[0], 0)
            self.assertEqual(lvol("check", path)[1]["findings"], [])
            self.assertEqual(lvol("check", "/dev/zero")[0], 3)
            host.start()

    @staticmethod
    def leak_a_cluster(path):
        with open(path, "r+b") as file:
            block = file.read(4096)
            at = int.from_bytes(block[40:44], "little") * 4096 + 5 + 40 // 8
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte | 1]))


class FillingUp(unittest.TestCase):
    def test_an_event_says_that_a_store_fills_up_and_says_it_again_after_it_was_emptier(self):
        with Host() as host:
            host.call("bdev_malloc_create", name="base", num_blocks=101 * MIB // 512, block_size=512)
            host.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="store", cluster_sz=MIB)
            total = host.call("bdev_lvol_get_lvstores")[0]["total_data_clusters"]

            def create(name, size):
                host.call("bdev_lvol_create", lvs_name="store", lvol_name=name, size_in_mib=size)

            create("most", total * 82 // 100)
            self.assertEqual(self.events(host), ["store 80"])
            create("little", total * 3 // 100)
            self.assertEqual(self.events(host), ["store 80"])
            create("rest", host.call("bdev_lvol_get_lvstores")[0]["free_clusters"])
            self.assertEqual(self.events(host), ["store 80", "store 100"])
            host.call("bdev_lvol_delete", name="store/most")
            create("most", total * 82 // 100)
            self.assertEqual(self.events(host), ["store 80", "store 100", "store 100"])

    @staticmethod
    def events(host):
        events = host.call("notify_get_notifications", id=0, max=100)
        return [event["ctx"] for event in events if event["type"] == "lvs_fill"]


class AfterAStop(unittest.TestCase):
    def test_a_store_is_closed_in_order_whichever_plugin_stops_first(self):
        for first, then in (("lvol", "aio"), ("aio", "lvol")):
            with self.subTest(first=first), Host() as host:
                path = new_disk(host)
                host.stop()
                host.start("--load", first, "--load", then)
                make_store(host, path)
                host.export("store/v")
                host.stop()
                code, report = lvol("check", path)
                self.assertEqual((code, report["is_clean"]), (0, True))
                host.start()


class AfterAKill(unittest.TestCase):
    def test_the_first_call_finds_stores_on_disks_that_came_before_the_plugin(self):
        with Host() as host:
            path = new_disk(host)
            make_store(host, path)
            for method in ("bdev_lvol_get_lvols", "bdev_lvol_get_lvstores"):
                host.kill()
                host.start()
                host.call("bdev_aio_create", name="base", filename=path, block_size=512)
                self.assertEqual(len(host.call(method)), 1, method)

    def test_a_store_on_a_file_is_found_again_with_its_volumes(self):
        with Host() as host:
            path = new_disk(host)
            make_store(host, path)
            host.call("bdev_lvol_snapshot", lvol_name="store/v", snapshot_name="s")
            before = host.call("bdev_lvol_get_lvols")
            self.assertEqual([volume["name"] for volume in before], ["v", "s"])
            host.kill()
            # The plugin is there before the disk, so that the disk's examination is waited for.
            host.start("--load", "lvol")
            host.call("bdev_aio_create", name="base", filename=path, block_size=512)
            host.call("bdev_wait_for_examine")
            self.assertEqual(host.call("bdev_lvol_get_lvols"), before)
            self.assertEqual(host.call("bdev_get_bdevs", name="store/v")[0]["num_blocks"], 8 * MIB // 512)


if __name__ == "__main__":
    unittest.main()
