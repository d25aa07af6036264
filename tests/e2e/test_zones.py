"""Zones over any disk (`zone-block`): SPDK's client makes them, and `drivebay perf` writes, appends and verifies."""

import json
import os
import subprocess
import tempfile
import unittest

from host import Host
from spdk_client import Client, Refused

PROGRAM = os.environ["DRIVEBAY_BIN"]
PLUGINS = os.environ["DRIVEBAY_PLUGIN_DIR"]
BASE = 'bdev_malloc_create {"name": "Base", "num_blocks": 8192, "block_size": 512}'
# 8 zones of 1024 blocks with room for 1001, so that a write of 4 KiB leaves a block at the end.
ZONED = ('bdev_zone_block_create {"name": "Zoned", "base_bdev": "Base", "zone_capacity": 1001,'
         ' "optimal_open_zones": 4}')


def perf(*arguments):
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [PROGRAM, "perf", "--json", "--plugin-dir", PLUGINS, "--rpc", BASE, "--rpc", ZONED, *arguments, "Zoned"],
            text=True, capture_output=True, timeout=60, env={**os.environ, "DRIVEBAY_RUNTIME": folder})


class Zones(unittest.TestCase):
    def setUp(self):
        self.host = Host()
        self.addCleanup(self.host.remove)
        self.start()
        self.client.call("bdev_malloc_create -b Base 4 512")

    def start(self):
        self.host.start("--state", f"{self.host.folder}/state.json")
        self.client = Client(self.host.socket)
        self.addCleanup(self.client.__exit__)

    def create(self, name="Zoned", base="Base", capacity=1000):
        return self.client.call(f"bdev_zone_block_create -b {name} -n {base} -z {capacity} -o 4")

    def refused(self, line):
        with self.assertRaises(Refused) as caught:
            self.client.call(line)
        return str(caught.exception)

    def shown(self):
        [bdev] = self.client.call("bdev_get_bdevs -b Zoned")
        return bdev

    def test_perf_writes_appends_and_verifies_every_zone_more_than_once(self):
        done = perf("-w", "verify", "-q", "3", "-n", "9000")
        self.assertEqual(done.returncode, 0, done.stderr)
        [report] = json.loads(done.stdout)["reports"]
        self.assertGreater(report["verified"], 8 * 125)

    def test_perf_refuses_patterns_and_depths_that_zones_do_not_take(self):
        for arguments, why in ((("-w", "randwrite"), "the only pattern that may write is verify"),
                               (("-w", "verify", "-q", "9"), "depth 9 must be at most 8"),
                               (("-w", "verify", "-o", "1M", "-q", "1"), "must be at most 524288")):
            with self.subTest(why):
                done = perf(*arguments)
                self.assertEqual(done.returncode, 1)
                self.assertIn(why, done.stderr)

    def test_a_zoned_bdev_is_shown_as_spdk_shows_it_and_returns_after_a_restart(self):
        self.assertEqual(self.create(), "Zoned")
        wanted = {"zoned": True, "zone_size": 1024, "max_open_zones": 0, "optimal_open_zones": 4, "num_blocks": 8192,
                  "product_name": "zone_block"}
        before = self.shown()
        self.assertEqual({name: before[name] for name in wanted}, wanted)
        self.assertEqual(before["driver_specific"]["zoned_block"], {
            "name": "Zoned", "base_bdev": "Base", "zone_capacity": 1000, "optimal_open_zones": 4})
        types = before["supported_io_types"]
        self.assertTrue(types["get_zone_info"] and types["zone_management"] and types["zone_append"])
        self.assertFalse(types["unmap"] or types["copy"])
        self.host.stop()
        self.start()
        self.assertEqual(self.shown(), before)
        self.client.call("bdev_zone_block_delete Zoned")
        self.assertIn("No such device", self.refused("bdev_zone_block_delete Zoned"))

    def test_what_cannot_be_divided_or_used_as_a_plain_disk_is_refused(self):
        self.assertIn("zone_capacity", self.refused("bdev_zone_block_create -b Zoned -n Base -z 8193 -o 1"))
        self.assertEqual(self.create(), "Zoned")
        self.assertIn("already zoned", self.refused("bdev_zone_block_create -b Twice -n Zoned -z 8 -o 1"))
        self.assertIn("base of a part", self.refused("bdev_split_create Zoned 2"))
        self.assertIn("is zoned", self.refused("bdev_lvol_create_lvstore Zoned lvs"))
        self.assertIn("is zoned", self.refused("bdev_raid_create -n Raid -r concat -z 4 -b Zoned"))
        self.client.call("nvmf_create_transport -t TCP")
        self.client.call("nvmf_create_subsystem nqn.2026-11.io.drivebay:zones -a")
        self.assertIn("zoned", self.refused("nvmf_subsystem_add_ns nqn.2026-11.io.drivebay:zones Zoned"))

    def test_zones_follow_a_base_that_goes_and_returns(self):
        self.assertEqual(self.create(base="Later", capacity=64), "Zoned")
        self.client.call("bdev_malloc_create -b Later 1 512")
        self.assertEqual(self.shown()["zone_size"], 64)
        self.client.call("bdev_malloc_delete Later")
        self.assertIn("No such device", self.refused("bdev_get_bdevs -b Zoned"))
        self.client.call("bdev_malloc_create -b Later 1 512")
        self.assertEqual(self.shown()["num_blocks"], 2048)


if __name__ == "__main__":
    unittest.main()
