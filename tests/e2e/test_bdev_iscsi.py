"""The iSCSI initiator against our own target: data, CHAP, resize, and targets that die, hang or change."""

import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

from host import Host, free_port
from iscsi_client import CheckCondition, Session
from spdk_client import Client, Refused
from test_exports import serve_iscsi
from test_iscsi import INITIATOR, TARGET
from test_nvme import PLUGINS, PROGRAM, wait

UUID = "6f9d7b1c-52a4-4a6b-9a2e-3f2f0c1d9e10"
BLOCKS = 65536


def url(port, user="", options=""):
    return f"iscsi://{user}127.0.0.1:{port}/{TARGET}/0{options}"


def serve(host, port, bdev="m0", **target):
    """A target with one unit at `port`."""
    host.call("iscsi_create_portal_group", tag=1, portals=[{"host": "127.0.0.1", "port": str(port)}])
    host.call("iscsi_create_initiator_group", tag=2, initiators=["ANY"], netmasks=["127.0.0.0/8"])
    host.call("iscsi_create_target_node", name="disk1", alias_name="", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 2}],
              queue_depth=64, luns=[{"bdev_name": bdev, "lun_id": 0}], **target)


def serve_ram(host, **target):
    """Serves a RAM disk. Returns the port."""
    port = free_port()
    host.call("bdev_malloc_create", name="m0", num_blocks=BLOCKS, block_size=512)
    serve(host, port, **target)
    return port


def create(host, port, user="", options=""):
    return host.call("bdev_iscsi_create", name="I0", initiator_iqn=INITIATOR, url=url(port, user, options))


def refusal(host, port, user="", options=""):
    return host.refused("bdev_iscsi_create", name="I0", initiator_iqn=INITIATOR, url=url(port, user, options))


class Load:
    """`drivebay perf` on a unit, in its own process. It compares the data that it reads with the data that it wrote."""

    def __init__(self, port, *flags, pattern="randrw", timeout_sec=30, options=""):
        self.folder = tempfile.TemporaryDirectory()
        calls = [("bdev_iscsi_set_options", {"timeout_sec": timeout_sec}),
                 ("bdev_iscsi_create", {"name": "I0", "initiator_iqn": INITIATOR, "url": url(port, options=options)})]
        rpc = [part for method, params in calls for part in ("--rpc", f"{method} {json.dumps(params)}")]
        command = [PROGRAM, "perf", "--json", "--plugin-dir", PLUGINS, *rpc, "--verify", "-w", pattern, *flags, "I0"]
        self.process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, "DRIVEBAY_RUNTIME": self.folder.name})

    def end(self, limit=120):
        """Waits for its end. Returns its output and its errors."""
        out, errors = self.process.communicate(timeout=limit)
        self.folder.cleanup()
        return out, errors

    def report(self):
        """Waits for its end without an error. Returns its report."""
        out, errors = self.end()
        assert self.process.returncode == 0, f"status {self.process.returncode}:\n{out}\n{errors}"
        return json.loads(out)["reports"][0]

    def failure(self):
        """Waits for its end with an error. Returns what it printed."""
        out, errors = self.end()
        assert self.process.returncode == 1, f"status {self.process.returncode}:\n{out}\n{errors}"
        return errors


def writes(host, bdev="m0"):
    return host.call("bdev_get_iostat", name=bdev)["bdevs"][0]["num_write_ops"]


class Methods(unittest.TestCase):
    def test_a_unit_becomes_a_bdev_by_the_commands_of_spdks_client(self):
        with Host() as target, Host() as host, Client(host.socket) as client:
            port = serve_ram(target)
            client.call("bdev_iscsi_set_options -t 20")
            made = f"bdev_iscsi_create -b I0 -i {INITIATOR} --url {url(port)}"
            self.assertEqual(client.call(made), "I0")
            (disk,) = client.call("bdev_get_bdevs -b I0")
            self.assertEqual((disk["num_blocks"], disk["block_size"], disk["product_name"]), (BLOCKS, 512, "iSCSI LUN"))
            self.assertEqual(disk["driver_specific"]["iscsi"], {"initiator_name": INITIATOR, "url": url(port)})
            supported = disk["supported_io_types"]
            self.assertTrue(supported["read"] and supported["write"] and supported["flush"] and supported["unmap"])
            with self.assertRaisesRegex(Refused, "I0"):
                client.call(made)

            saved = [call for call in host.call("framework_get_config", name="bdev") if "bdev_iscsi" in call["method"]]
            self.assertEqual([call["method"] for call in saved], ["bdev_iscsi_set_options", "bdev_iscsi_create"])
            self.assertEqual(saved[0]["params"], {"timeout_sec": 20})
            client.call("bdev_iscsi_delete I0")
            self.assertEqual(host.refused("bdev_get_bdevs", name="I0").code, -19)
            self.assertEqual(host.refused("bdev_iscsi_delete", name="I0").code, -19)
            for call in saved:
                host.call(call["method"], **call["params"])
            self.assertEqual(host.call("bdev_get_bdevs", name="I0")[0]["num_blocks"], BLOCKS)

    def test_what_cannot_be_a_bdev_is_refused_and_the_answer_says_why(self):
        with Host() as target, Host() as host:
            port = serve_ram(target)
            nobody = free_port()
            for given, why in ((url(nobody), "refused"), (url(port).replace("disk1", "disk2"), "no such target"),
                               (f"{url(port)}7", "does not exist"), (url(port).replace("iscsi:", "http:"), "iscsi://")):
                with self.subTest(url=given):
                    error = host.refused("bdev_iscsi_create", name="I0", initiator_iqn=INITIATOR, url=given)
                    self.assertIn(why, error.message)
            error = host.refused("bdev_iscsi_create", name="I0", initiator_iqn="host 1", url=url(port))
            self.assertIn("initiator_iqn", error.message)
            self.assertEqual(host.call("bdev_get_bdevs"), [])

    def test_chap_admits_the_right_secret_and_no_answer_shows_it(self):
        with Host() as target, Host() as host:
            target.call("iscsi_create_auth_group", tag=3, secrets=[{"user": "u1", "secret": "a-secret-of-u1"}])
            port = serve_ram(target, require_chap=True, chap_group=3)
            for user in ("u1%another-secret@", ""):
                error = host.refused("bdev_iscsi_create", name="I0", initiator_iqn=INITIATOR, url=url(port, user))
                self.assertEqual(error.code, -1)
                self.assertIn("the target refuses the user or secret", error.message)
                self.assertNotIn("another-secret", error.message)
            self.assertEqual(create(host, port, "u1%a-secret-of-u1@"), "I0")
            self.assertNotIn("a-secret-of-u1", str(host.call("bdev_get_bdevs", name="I0")))
            self.assertNotIn("secret-of", host.log(1000))


class Data(unittest.TestCase):
    def test_what_is_written_is_read_back_with_and_without_digests_whatever_the_size(self):
        for digests in (False, True):
            with Host() as target:
                port = serve_ram(target, header_digest=digests, data_digest=digests)
                for size in ("512", "4K", "128K", "1M"):
                    with self.subTest(digests=digests, size=size):
                        report = Load(port, "-o", size, "-q", "16", "-n", "400", pattern="verify").report()
                        self.assertGreater(report["reads"], 0)
                self.assertGreater(writes(target), 0)

    def test_unmap_and_flush_reach_the_target(self):
        with Host() as target, Host() as host:
            create(host, serve_ram(target))
            unit = Session(serve_iscsi(host, "I0"), TARGET)
            unmaps = lambda: target.call("bdev_get_iostat", name="m0")["bdevs"][0]["num_unmap_ops"]
            unit.write_all(0, b"\x5a" * 65536)
            self.assertEqual(unmaps(), 0)
            blocks = struct.pack(">HHIQII", 22, 16, 0, 8, 64, 0)
            unit.command(struct.pack(">BxxxxxxHx", 0x42, len(blocks)), data=blocks)
            unit.command(bytes([0x35]))
            self.assertEqual(unmaps(), 1)
            self.assertEqual(unit.read_all(0, 65536), b"\x5a" * 4096 + bytes(32768) + b"\x5a" * 28672)
            unit.close()

    def test_a_unit_that_grows_makes_the_bdev_larger(self):
        with Host() as target, Host() as host:
            port = free_port()
            target.call("bdev_null_create", name="n0", num_blocks=32768, block_size=512)
            serve(target, port, bdev="n0")
            create(host, port)
            unit = Session(serve_iscsi(host, "I0"), TARGET)
            unit.read_all(0, 4096)
            target.call("bdev_null_resize", name="n0", new_size=32)

            def is_larger():
                # The target reports the new size with a session's next command.
                try:
                    unit.read_all(0, 4096)
                except CheckCondition:
                    pass  # The exported bdev has a new size too.
                return host.call("bdev_get_bdevs", name="I0")[0]["num_blocks"] == 65536
            wait(is_larger)
            unit.close()


class Targets(unittest.TestCase):
    """Targets that die, hang, or come back with another disk."""

    def serve_file(self, host, port, name="disk", uuid=UUID):
        path = f"{host.folder}/{name}"
        with open(path, "ab") as file:
            file.truncate(32 << 20)
        host.call("bdev_aio_create", name="m0", filename=path, block_size=512, uuid=uuid)
        serve(host, port)

    def test_nothing_is_lost_when_the_target_is_killed_and_restarted_under_load(self):
        with Host() as target:
            port = free_port()
            self.serve_file(target, port)
            load = Load(port, "-q", "16", "-t", "14")
            for _ in range(2):
                wait(lambda: writes(target) > 100)
                self.assertIsNone(load.process.poll())
                target.kill()
                target.start()
                self.serve_file(target, port)
            wait(lambda: writes(target) > 100)
            self.assertGreater(load.report()["reads"], 0)

    def test_another_unit_in_the_place_of_the_old_one_never_gets_io(self):
        with Host() as target:
            port = free_port()
            self.serve_file(target, port)
            load = Load(port, "-q", "16", "-t", "60", timeout_sec=5)
            wait(lambda: writes(target) > 100)
            target.kill()
            target.start()
            self.serve_file(target, port, "other", UUID.replace("6f9d", "1111"))
            self.assertIn("the unit is not the same as before", load.failure())
            self.assertEqual(writes(target), 0)

    def test_io_fails_when_a_target_hangs_for_longer_than_timeout_sec(self):
        with Host() as target:
            load = Load(serve_ram(target), "-q", "16", "-t", "60", timeout_sec=2)
            wait(lambda: writes(target) > 100)
            target.process.send_signal(signal.SIGSTOP)
            try:
                self.assertIn("a command takes too long", load.failure())
            finally:
                target.process.send_signal(signal.SIGCONT)

    def test_io_fails_when_the_disk_of_a_target_that_answers_never_does(self):
        with Host() as target:
            port = free_port()
            target.call("bdev_malloc_create", name="m0", num_blocks=BLOCKS, block_size=512)
            target.call("bdev_error_create", base_name="m0")
            serve(target, port, bdev="EE_m0")
            load = Load(port, "-q", "4", "-t", "60", timeout_sec=3)
            wait(lambda: writes(target, "EE_m0") > 100)
            target.call("bdev_error_inject_error", name="EE_m0", io_type="write", error_type="pending", num=1 << 20)
            self.assertIn("a command takes too long", load.failure())
            target.call("bdev_error_delete", name="EE_m0")

    def test_a_bdev_whose_target_is_gone_can_be_deleted_although_its_io_has_no_time_limit(self):
        with Host() as target, Host() as host:
            host.call("bdev_iscsi_set_options", timeout_sec=0)
            create(host, serve_ram(target))
            unit = Session(serve_iscsi(host, "I0"), TARGET)
            unit.read_all(0, 4096)
            target.kill()
            unit.read(7, 0, 8)
            self.assertIs(host.call("bdev_iscsi_delete", name="I0"), True)
            self.assertEqual(host.refused("bdev_get_bdevs", name="I0").code, -19)
            unit.close()

    def test_a_portal_that_never_answers_is_given_up_after_timeout_sec(self):
        with Host() as host, socket.create_server(("127.0.0.1", 0)) as silent:
            host.call("bdev_iscsi_set_options", timeout_sec=1)
            began = time.monotonic()
            error = host.refused("bdev_iscsi_create", name="I0", initiator_iqn=INITIATOR,
                                 url=url(silent.getsockname()[1]))
            self.assertGreater(time.monotonic() - began, 0.9)
            self.assertEqual(error.code, -110)
            self.assertIn(str(silent.getsockname()[1]), error.message)


if __name__ == "__main__":
    unittest.main()
