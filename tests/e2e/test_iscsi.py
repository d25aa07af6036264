"""The iSCSI target, tested with Debian's libiscsi-bin."""

import base64
import os
import re
import resource
import socket
import struct
import subprocess
import time
import unittest
from collections import Counter

from host import Host, free_port
from iscsi_client import Session

TARGET = "iqn.2016-06.io.spdk:disk1"
INITIATOR = "iqn.2001-04.com.example:host1"
# The results of iscsi-test-cu 1.19. docs/spec-coverage/iscsi.md has each failed or skipped test, with its
# clause.
FAILS = {("CompareAndWrite", "Simple"), ("CompareAndWrite", "Miscompare")}
TESTS, PASSES = 230, 228
SKIPS = {
    "--allow-sanitize flag is not set. Skipping test.": 11,
    "LBPPB < 2. Skipping test": 5,
    "LUN is not removable. Skipping test.": 3,
    "Logical unit is not removable. Skipping test.": 8,
    "Logical unit is not write-protected. Skipping test.": 1,
    "Media is not removable.": 1,
    "ORWRITE is not implemented.": 12,
    "READDEFECTDATA10 is not implemented.": 2,
    "READDEFECTDATA12 is not implemented.": 2,
    "WRITEATOMIC16 is not implemented.": 11,
    "WRITESAME10 does not support 0-blocks.": 1,
    "WRITESAME16 does not support 0-blocks.": 1,
}


def run(*command, limit=120):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit)
    return done.returncode, done.stdout


def serve(host, **target):
    """Creates a target with two units behind a portal on loopback. Returns the port."""
    port = free_port()
    for name in ("m0", "m1"):
        host.call("bdev_malloc_create", name=name, num_blocks=131072, block_size=512)
    host.call("iscsi_create_portal_group", tag=1, portals=[{"host": "127.0.0.1", "port": str(port)}])
    host.call("iscsi_create_initiator_group", tag=2, initiators=["ANY"], netmasks=["127.0.0.0/8"])
    host.call("iscsi_create_target_node", name="disk1", alias_name="first",
              pg_ig_maps=[{"pg_tag": 1, "ig_tag": 2}], queue_depth=64,
              luns=[{"bdev_name": "m0", "lun_id": 0}, {"bdev_name": "m1", "lun_id": 1}], **target)
    return port


class Iscsi(unittest.TestCase):
    def test_discovery_tells_targets_and_units(self):
        with Host() as host:
            port = serve(host)
            status, text = run("iscsi-ls", "-s", f"iscsi://127.0.0.1:{port}")
            self.assertEqual(status, 0, text)
            self.assertIn(f"Target:{TARGET} Portal:127.0.0.1:{port},1", text)
            self.assertEqual(len(re.findall(r"Lun:\d", text)), 2, text)

    def test_the_case_of_a_targets_name_does_not_matter(self):
        with Host() as host:
            port = serve(host)
            host.call("iscsi_create_target_node", name="Target3", alias_name="", queue_depth=0,
                      pg_ig_maps=[{"pg_tag": 1, "ig_tag": 2}], luns=[{"bdev_name": "m0"}])
            for name in ("Target3", "target3", "TARGET3"):
                Session(port, f"iqn.2016-06.io.spdk:{name}").test_unit_ready()
            status, text = run("iscsi-ls", f"iscsi://127.0.0.1:{port}")
            self.assertEqual(status, 0, text)
            self.assertIn("iqn.2016-06.io.spdk:Target3", text)

    def test_inquiry_names_the_bdev(self):
        with Host() as host:
            port = serve(host)
            status, text = run("iscsi-inq", f"iscsi://127.0.0.1:{port}/{TARGET}/1")
            self.assertEqual(status, 0, text)
            self.assertIn("m1", text)

    def test_chap_admits_the_right_secret_only(self):
        with Host() as host:
            secret = {"user": "u1", "secret": "a-secret-of-u1"}
            host.call("iscsi_create_auth_group", tag=3, secrets=[secret])
            port = serve(host, require_chap=True, chap_group=3)
            for user, is_admitted in (("u1%a-secret-of-u1@", True), ("u1%another-secret@", False), ("", False)):
                status, text = run("iscsi-inq", f"iscsi://{user}127.0.0.1:{port}/{TARGET}/0")
                self.assertEqual(status == 0, is_admitted, text)
            told = host.call("iscsi_get_auth_groups")
            self.assertNotIn("a-secret-of-u1", str(told))

    def test_initiators_wait_while_descriptors_have_run_out_and_the_host_does_not_spin(self):
        with Host() as host:
            host.stop()
            host.start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
            port = serve(host)
            clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(100)]
            told = "no connection can be accepted"
            end = time.monotonic() + 20
            while told not in host.log(1000):
                self.assertLess(time.monotonic(), end, "the log does not report it")
                time.sleep(0.05)

            def processor_seconds():
                with open(f"/proc/{host.process.pid}/stat") as stat:
                    fields = stat.read().rsplit(")", 1)[1].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            begin = processor_seconds()
            time.sleep(2)
            self.assertLess(processor_seconds() - begin, 1, "it spins")
            for client in clients:
                client.close()
            status, text = run("iscsi-inq", f"iscsi://127.0.0.1:{port}/{TARGET}/0")
            self.assertEqual(status, 0, text)

    def test_a_connection_is_shown_with_its_threads_name(self):
        with Host() as host:
            session = Session(serve(host), TARGET)
            session.test_unit_ready()
            (shown,) = host.call("iscsi_get_connections")
            self.assertEqual((shown["state"], shown["target_node_name"]), ("running", "disk1"))
            threads = [thread["name"] for thread in host.call("thread_get_stats")["threads"]]
            self.assertIn(shown["thread_name"], threads)
            session.close()

    def test_a_configuration_makes_the_target_again(self):
        with Host() as host:
            port = serve(host)
            saved = host.call("framework_get_config", name="iscsi")
            nodes = host.call("iscsi_get_target_nodes")
            host.call("iscsi_delete_target_node", name=TARGET)
            host.call("iscsi_delete_initiator_group", tag=2)
            host.call("iscsi_delete_portal_group", tag=1)
            for call in saved:
                host.call(call["method"], **call["params"])
            self.assertEqual(host.call("iscsi_get_target_nodes"), nodes)
            status, text = run("iscsi-inq", f"iscsi://127.0.0.1:{port}/{TARGET}/0")
            self.assertEqual(status, 0, text)

    def test_a_configuration_that_is_saved_after_its_groups_were_deleted_names_none_of_them(self):
        with Host() as host:
            serve(host)
            host.call("iscsi_create_portal_group", tag=3, portals=[{"host": "127.0.0.1", "port": str(free_port())}])
            host.call("iscsi_target_node_add_pg_ig_maps", name=TARGET, pg_ig_maps=[{"pg_tag": 3, "ig_tag": 2}])
            host.call("iscsi_target_node_set_redirect", name=TARGET, pg_tag=3, redirect_host="127.0.0.1",
                      redirect_port="3260")

            def saved():
                return [call["method"] for call in host.call("framework_get_config", name="iscsi")]
            self.assertIn("iscsi_target_node_set_redirect", saved())
            host.call("iscsi_delete_portal_group", tag=3)
            self.assertIn("iscsi_create_target_node", saved())
            self.assertNotIn("iscsi_target_node_set_redirect", saved())
            # Without maps, iscsi_create_target_node would refuse the target.
            host.call("iscsi_delete_initiator_group", tag=2)
            self.assertNotIn("iscsi_create_target_node", saved())

    def test_a_target_whose_bdev_does_not_open_leaves_nothing_behind(self):
        with Host() as host:
            port = serve(host)
            node = {"name": "disk2", "alias_name": "", "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}], "queue_depth": 64}
            luns = [[{"bdev_name": name, "lun_id": 0}] for name in ("nowhere", "m0")]
            for _ in range(10):
                host.refused("iscsi_create_target_node", luns=luns[0], **node)
                host.call("iscsi_create_target_node", luns=luns[1], **node)
                Session(port, TARGET.replace("disk1", "disk2")).close()
                host.call("iscsi_delete_target_node", name="disk2")

    def test_two_luns_do_not_share_a_reservation_file(self):
        with Host() as host:
            serve(host)
            lun = {"name": TARGET, "ptpl_file": f"{host.folder}/kept"}
            host.call("iscsi_target_node_add_lun", bdev_name="m0", lun_id=2, **lun)
            error = host.refused("iscsi_target_node_add_lun", bdev_name="m1", lun_id=3, **lun)
            self.assertIn("its own file", error.message)

    def test_latencies_are_counted_while_that_is_enabled(self):
        with Host() as host:
            session = Session(serve(host), TARGET)
            self.assertIn("iscsi_enable_histogram", host.refused("iscsi_get_histogram", name=TARGET).message)
            host.call("iscsi_enable_histogram", name=TARGET, enable=True)
            for lba in range(20):
                session.read_all(lba, 512)
            told = host.call("iscsi_get_histogram", name=TARGET)
            counts = struct.unpack(f"<{58 * 128}Q", base64.b64decode(told.pop("histogram")))
            self.assertEqual(sum(counts), 20)
            self.assertEqual(told, {"granularity": 7, "min_range": 0, "max_range": 57, "tsc_rate": 10**9})
            saved = [call["method"] for call in host.call("framework_get_config", name="iscsi")]
            self.assertIn("iscsi_enable_histogram", saved)
            host.call("iscsi_enable_histogram", name=TARGET, enable=False)
            host.refused("iscsi_get_histogram", name=TARGET)

    def test_the_conformance_suite_of_libiscsi(self):
        with Host() as host:
            port, second = serve(host), free_port()
            host.call("iscsi_create_portal_group", tag=3, portals=[{"host": "127.0.0.1", "port": str(second)}])
            host.call("iscsi_target_node_add_pg_ig_maps", name=TARGET, pg_ig_maps=[{"pg_tag": 3, "ig_tag": 2}])
            # The unit has two portals, so the suite's tests of several paths run, too.
            urls = [f"iscsi://127.0.0.1:{one}/{TARGET}/0" for one in (port, second)]
            _, text = run("iscsi-test-cu", "-d", "-n", "-V", "-t", "ALL", *urls, limit=600)
        failed = set(re.findall(r"Suite (\S+), Test (\S+) had failures", text))
        self.assertEqual(failed, FAILS, text[-6000:])
        counts = re.search(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+)", text, re.M)
        self.assertIsNotNone(counts, text[-6000:])
        self.assertEqual([int(count) for count in counts.groups()], [TESTS, TESTS, PASSES, len(FAILS)])
        skipped = Counter(re.findall(r"\[SKIPPED\] (.*)", text))
        self.assertEqual(skipped, SKIPS)


if __name__ == "__main__":
    unittest.main()
