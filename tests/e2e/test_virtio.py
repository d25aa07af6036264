"""The virtio plugin: disks of vhost-user back ends, ours and QEMU's, and back ends that die under load."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from host import Host
from spdk_client import Client, Refused

PROGRAM = os.environ["DRIVEBAY_BIN"]
PLUGINS = os.environ["DRIVEBAY_PLUGIN_DIR"]
SIZE = 32 << 20


def wait(what, limit=30):
    end = time.monotonic() + limit
    while not (found := what()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return found


def where(socket, **more):
    return {"name": "V0", "trtype": "user", "traddr": socket, "dev_type": "blk", **more}


def back_end():
    """A host whose vhost sockets are in its own folder."""
    host = Host()
    host.flags = ("-S", host.folder)
    return host


def serve(host, packed=False, block_size=512):
    """Serves a file, which outlives the host. Returns the path of the socket."""
    with open(f"{host.folder}/disk", "ab") as disk:
        disk.truncate(SIZE)
    host.call("bdev_aio_create", name="a0", filename=f"{host.folder}/disk", block_size=block_size, fallocate=True)
    host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="a0", packed_ring=packed)
    return f"{host.folder}/disk.sock"


def serve_scsi(host, targets=(0,)):
    """Serves files, which outlive the host, as targets of a SCSI host. Returns the path of the socket."""
    host.call("vhost_create_scsi_controller", ctrlr="scsi.sock", delay=True)
    for number in targets:
        path = f"{host.folder}/disk{number}"
        with open(path, "ab") as disk:
            disk.truncate(SIZE)
        host.call("bdev_aio_create", name=f"s{number}", filename=path, block_size=512, fallocate=True)
        host.call("vhost_scsi_controller_add_target", ctrlr="scsi.sock", scsi_target_num=number, bdev_name=f"s{number}")
    host.call("vhost_start_scsi_controller", ctrlr="scsi.sock")
    return f"{host.folder}/scsi.sock"


class Load:
    """`drivebay perf` on the disk of a socket, in another process. It compares the data that it reads with the data that it wrote."""

    def __init__(self, socket, *flags, bdev="V0", **more):
        self.folder = tempfile.TemporaryDirectory()
        attach = f"bdev_virtio_attach_controller {json.dumps(where(socket, **more))}"
        command = [PROGRAM, "perf", "--json", "--plugin-dir", PLUGINS, "--rpc", attach, "--verify", *flags, bdev]
        self.process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, "DRIVEBAY_RUNTIME": self.folder.name})

    def report(self, limit=120):
        """Waits until it ends without an error. Returns its report; `log` has the log lines of the plugin."""
        out, errors = self.process.communicate(timeout=limit)
        self.folder.cleanup()
        assert self.process.returncode == 0, f"status {self.process.returncode}:\n{out}\n{errors}"
        return {**json.loads(out)["reports"][0], "log": errors}


class Controllers(unittest.TestCase):
    def test_a_disk_becomes_a_bdev_is_saved_and_goes_with_its_controller(self):
        with back_end() as served, Host() as host:
            socket = serve(served, block_size=4096)
            self.assertEqual(host.call("bdev_virtio_attach_controller", **where(socket, vq_count=2)), ["V0"])
            disk = host.call("bdev_get_bdevs", name="V0")[0]
            self.assertEqual((disk["num_blocks"], disk["block_size"]), (SIZE // 4096, 4096))
            self.assertEqual(disk["product_name"], "VirtioBlk Disk")
            supported = disk["supported_io_types"]
            self.assertTrue(supported["flush"] and supported["write_zeroes"] and supported["unmap"])
            virtio = disk["driver_specific"]["virtio"]
            self.assertEqual({**virtio, "state": None},
                             {"vq_count": 2, "vq_size": 512, "packed_ring": False, "type": "user", "socket": socket,
                              "state": None})
            saved = [call for call in host.call("framework_get_config", name="bdev")
                     if call["method"] == "bdev_virtio_attach_controller"]
            self.assertEqual([call["params"]["traddr"] for call in saved], [socket])
            self.assertEqual(host.refused("bdev_virtio_attach_controller", **where(socket)).code, -17)
            self.assertTrue(host.call("bdev_virtio_detach_controller", name="V0"))
            self.assertEqual(host.refused("bdev_get_bdevs", name="V0").code, -19)
            self.assertEqual(host.refused("bdev_virtio_detach_controller", name="V0").code, -19)
            # The back end has ended the first session, so it accepts another session for the disk.
            self.assertEqual(host.call("bdev_virtio_attach_controller", **where(socket)), ["V0"])

    def test_what_is_not_supported_or_not_there_is_refused_and_the_error_says_why(self):
        with back_end() as served, Host() as host:
            socket = serve(served)
            for more, code, word in [
                ({"trtype": "pci", "traddr": "0000:00:01.0"}, -95, "allowed: user"),
                ({"trtype": "vfio-user"}, -95, "allowed: user"),
                ({"dev_type": "scsi"}, -5, "the device"),
                ({"vq_size": 100}, -22, "a power of two"),
                ({"vq_count": 1000}, -22, "the queues of the device"),
                ({"traddr": f"{socket}.none"}, -5, "connect"),
            ]:
                error = host.refused("bdev_virtio_attach_controller", **{**where(socket), **more})
                self.assertEqual(error.code, code, error)
                self.assertIn(word, error.message)

    def test_another_size_is_taken_over_while_the_disk_is_in_use(self):
        with back_end() as served, Host() as host:
            served.call("bdev_null_create", name="n0", num_blocks=32 << 11, block_size=512)
            served.call("vhost_create_blk_controller", ctrlr="null.sock", dev_name="n0")
            host.call("bdev_virtio_attach_controller", **where(f"{served.folder}/null.sock"))
            served.call("bdev_null_resize", name="n0", new_size=64)
            wait(lambda: host.call("bdev_get_bdevs", name="V0")[0]["num_blocks"] == 64 << 11)

    def test_a_controller_whose_back_end_is_gone_can_be_detached(self):
        with back_end() as served, Host() as host:
            host.call("bdev_virtio_attach_controller", **where(serve(served)))
            served.kill()
            wait(lambda: host.call("bdev_get_bdevs", name="V0")[0]["driver_specific"]["virtio"]["state"] == "waiting")
            self.assertTrue(host.call("bdev_virtio_detach_controller", name="V0"))

    def test_the_reference_client_calls_every_method(self):
        with back_end() as served, Host() as host, Client(host.socket) as client:
            socket = serve(served)
            call = client.call
            self.assertEqual(call(f"bdev_virtio_attach_controller --trtype user --traddr {socket} --dev-type blk "
                                  "--vq-count 1 --vq-size 128 V0"), "V0")
            self.assertEqual(call("bdev_virtio_scsi_get_devices"), [])
            scsi = serve_scsi(served, (0, 3))
            added = call(f"bdev_virtio_attach_controller --trtype user --traddr {scsi} --dev-type scsi --vq-count 4 V1")
            self.assertEqual(added.split(), ["V1t0", "V1t3"])
            (device,) = call("bdev_virtio_scsi_get_devices")
            self.assertEqual((device["name"], device["virtio"]["vq_count"], device["virtio"]["socket"]), ("V1", 4, scsi))
            self.assertIn(call("bdev_virtio_detach_controller V1"), (True, ""))
            self.assertEqual(call("bdev_virtio_scsi_get_devices"), [])
            self.assertIn(call("bdev_virtio_blk_set_hotplug --hotplug -r 100000"), (True, ""))
            self.assertIn(call("bdev_virtio_detach_controller V0"), (True, ""))
            with self.assertRaises(Refused):
                call("bdev_virtio_detach_controller V0")


class Units(unittest.TestCase):
    def test_the_bdevs_of_a_scsi_host_come_grow_and_go_with_its_targets(self):
        with back_end() as served, Host() as host:
            socket = serve_scsi(served, (0, 3))
            names = lambda: [bdev["name"] for bdev in host.call("bdev_get_bdevs")]
            attached = host.call("bdev_virtio_attach_controller", **where(socket, dev_type="scsi"))
            self.assertEqual(attached, ["V0t0", "V0t3"])
            disk = host.call("bdev_get_bdevs", name="V0t3")[0]
            self.assertEqual((disk["product_name"], disk["num_blocks"]), ("Virtio SCSI Disk", SIZE // 512))
            self.assertTrue(disk["supported_io_types"]["flush"] and disk["supported_io_types"]["unmap"])
            (saved,) = [call for call in host.call("framework_get_config", name="bdev")
                        if call["method"] == "bdev_virtio_attach_controller"]
            self.assertEqual((saved["params"]["name"], saved["params"]["dev_type"]), ("V0", "scsi"))

            served.call("bdev_null_create", name="n0", num_blocks=32 << 11, block_size=512)
            served.call("vhost_scsi_controller_add_target", ctrlr="scsi.sock", scsi_target_num=5, bdev_name="n0")
            wait(lambda: "V0t5" in names())
            served.call("bdev_null_resize", name="n0", new_size=64)
            wait(lambda: host.call("bdev_get_bdevs", name="V0t5")[0]["num_blocks"] == 64 << 11)
            served.call("vhost_scsi_controller_remove_target", ctrlr="scsi.sock", scsi_target_num=3)
            wait(lambda: names() == ["V0t0", "V0t5"])
            self.assertTrue(host.call("bdev_virtio_detach_controller", name="V0"))
            self.assertEqual(names(), [])

    def test_what_is_written_to_a_unit_is_read_in_every_size_and_depth(self):
        with back_end() as served:
            socket = serve_scsi(served)
            for size, depth, queue in [(512, 1, 512), (4096, 32, 512), (131072, 16, 16), (262144, 50, 64)]:
                with self.subTest(size=size, depth=depth, queue=queue):
                    load = Load(socket, "-w", "randrw", "-o", str(size), "-q", str(depth), "-n", "400", bdev="V0t0",
                                dev_type="scsi", vq_size=queue)
                    report = load.report()
                    self.assertGreater(report["reads"] + report["writes"], 399)

    def test_nothing_is_lost_when_the_host_of_a_unit_is_killed_and_restarted_under_load(self):
        with back_end() as served:
            load = Load(serve_scsi(served), "-w", "randrw", "-q", "16", "-t", "8", bdev="V0t0", dev_type="scsi")
            wait(lambda: any(session["started"] for session in served.call("vhost_get_controllers")[0]["sessions"]))
            for number in range(2):
                time.sleep(1.5)
                if number and load.process.poll() is not None:
                    break  # a slow machine has used up the time of the load
                served.kill()
                served.start()
                serve_scsi(served)
            report = load.report()
            self.assertGreater(report["reads"] + report["writes"], 100)
            self.assertIn("the back end is gone", report["log"])


class Hanging(unittest.TestCase):
    def test_io_of_a_back_end_that_hangs_fails_when_its_time_is_over(self):
        with back_end() as served:
            load = Load(serve(served), "-w", "randrw", "-q", "16", "-t", "60", timeout_sec=2)
            try:
                wait(lambda: any(session["started"] for session in served.call("vhost_get_controllers")[0]["sessions"]))
                served.process.send_signal(signal.SIGSTOP)
                _, log = load.process.communicate(timeout=50)
            finally:
                served.process.send_signal(signal.SIGCONT)
                load.process.kill()
                load.folder.cleanup()
            self.assertNotEqual(load.process.returncode, 0)
            self.assertIn("has completed no I/O of a queue for 2 s", log)


class Verified(unittest.TestCase):
    def test_what_is_written_is_read_in_every_size_and_depth(self):
        for packed in (False, True):
            with back_end() as served:
                socket = serve(served, packed)
                for size, depth, queue in [(512, 1, 512), (4096, 32, 512), (131072, 16, 16), (262144, 50, 64)]:
                    with self.subTest(packed=packed, size=size, depth=depth, queue=queue):
                        load = Load(socket, "-w", "randrw", "-o", str(size), "-q", str(depth), "-n", "400", vq_size=queue)
                        report = load.report()
                        self.assertGreater(report["reads"] + report["writes"], 399)

    def test_nothing_is_lost_when_the_back_end_is_killed_and_restarted_under_load(self):
        for packed in (False, True):
            with self.subTest(packed=packed), back_end() as served:
                socket = serve(served, packed)
                load = Load(socket, "-w", "randrw", "-q", "16", "-t", "8")
                wait(lambda: any(session["started"] for session in served.call("vhost_get_controllers")[0]["sessions"]))
                for number in range(3):
                    time.sleep(1.5)
                    if number and load.process.poll() is not None:
                        break  # a slow machine has used up the time of the load
                    served.kill()
                    served.start()
                    serve(served, packed)
                report = load.report()
                self.assertGreater(report["reads"] + report["writes"], 100)
                self.assertIn("the back end is gone", report["log"])

    @contextlib.contextmanager
    def storage_daemon(self, folder):
        """QEMU's back end with a file of zeroes. Yields the path of its socket."""
        with open(f"{folder}/disk", "wb") as disk:
            disk.truncate(SIZE)
        socket = f"{folder}/qsd.sock"
        process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f,filename={folder}/disk,discard=unmap",
             "--export", f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={socket},writable=on,num-queues=4"])
        try:
            wait(lambda: os.path.exists(socket))
            yield socket
        finally:
            process.kill()
            process.wait()

    def test_the_back_end_of_qemu_serves_the_same_load(self):
        with tempfile.TemporaryDirectory() as folder, self.storage_daemon(folder) as socket:
            report = Load(socket, "-w", "randrw", "-q", "16", "-n", "2000", vq_size=128).report()
            self.assertGreater(report["reads"] + report["writes"], 1999)
            with Host() as host:
                host.call("bdev_virtio_attach_controller", **where(socket, vq_size=128))
                self.assertEqual(host.call("bdev_get_bdevs", name="V0")[0]["num_blocks"], SIZE // 512)


if __name__ == "__main__":
    unittest.main()
