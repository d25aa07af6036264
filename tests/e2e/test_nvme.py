"""The NVMe plugin against our own target: in the same process, in another, and in a process that is killed under
load."""

import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from host import Host, free_port

PROGRAM = os.environ["DRIVEBAY_BIN"]
PLUGINS = os.environ["DRIVEBAY_PLUGIN_DIR"]
NQN = "nqn.2026-01.io.drivebay:test"


def where(port, **more):
    return {"name": "Nvme0", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port),
            "subnqn": NQN, **more}


def wait(what, limit=30):
    end = time.monotonic() + limit
    while not (found := what()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return found


class Load:
    """`drivebay perf` on a namespace, in its own process. It compares the data that it reads with the data that it
    wrote."""

    def __init__(self, port, *flags, bdevs=("Nvme0n1",), options=None, more_paths=(), **more):
        self.folder = tempfile.TemporaryDirectory()
        paths = [where(port, **more), *more_paths]
        calls = [("bdev_nvme_set_options", options or {}), *(("bdev_nvme_attach_controller", path) for path in paths)]
        rpc = [part for method, params in calls for part in ("--rpc", f"{method} {json.dumps(params)}")]
        command = [PROGRAM, "perf", "--json", "--plugin-dir", PLUGINS, *rpc, "--verify", *flags, *bdevs]
        self.process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, "DRIVEBAY_RUNTIME": self.folder.name})

    def end(self, limit=120):
        """Waits for its end. Returns its output and its errors."""
        out, errors = self.process.communicate(timeout=limit)
        self.folder.cleanup()
        return out, errors

    def report(self, limit=120):
        """Waits for its end without an error. Returns its report; `log` has the lines of the plugin."""
        out, errors = self.end(limit)
        assert self.process.returncode == 0, f"status {self.process.returncode}:\n{out}\n{errors}"
        return {**json.loads(out)["reports"][0], "log": errors}


def export(host, port, blocks=65536):
    host.call("bdev_malloc_create", name="m0", num_blocks=blocks, block_size=512)
    host.export("m0", nqn=NQN, port=port)


class OneProcess(unittest.TestCase):
    def test_a_namespace_becomes_a_bdev_and_goes_with_its_controller(self):
        with Host() as host:
            port = free_port()
            export(host, port)
            self.assertEqual(host.call("bdev_nvme_attach_controller", **where(port)), ["Nvme0n1"])
            disk = host.call("bdev_get_bdevs", name="Nvme0n1")[0]
            self.assertEqual((disk["num_blocks"], disk["block_size"]), (65536, 512))
            self.assertEqual(disk["driver_specific"]["nvme"][0]["trid"]["trsvcid"], str(port))
            controller = host.call("bdev_nvme_get_controllers")[0]
            self.assertEqual((controller["name"], controller["ctrlrs"][0]["state"]), ("Nvme0", "enabled"))
            self.assertEqual(host.refused("bdev_nvme_attach_controller", **where(port)).code, -114)
            self.assertTrue(host.call("bdev_nvme_reset_controller", name="Nvme0"))
            self.assertTrue(host.call("bdev_nvme_detach_controller", name="Nvme0"))
            self.assertEqual(host.refused("bdev_get_bdevs", name="Nvme0n1").code, -19)
            self.assertEqual(host.call("bdev_nvme_get_controllers"), [])
            self.assertEqual(host.refused("bdev_nvme_detach_controller", name="Nvme0").code, -19)

    def test_a_controller_that_is_not_there_is_refused_and_the_answer_says_why(self):
        with Host() as host:
            error = host.refused("bdev_nvme_attach_controller", **where(free_port()))
            self.assertEqual(error.code, -5)
            self.assertIn("refused", error.message)
            self.assertEqual(host.call("bdev_nvme_get_controllers"), [])

    def test_namespaces_that_come_go_and_grow_are_followed(self):
        with Host() as host:
            port = free_port()
            export(host, port)
            host.call("bdev_nvme_attach_controller", **where(port))
            names = lambda: [disk["name"] for disk in host.call("bdev_get_bdevs")]
            host.call("bdev_null_create", name="n0", num_blocks=4096, block_size=4096)
            host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n0", "nsid": 7})
            wait(lambda: "Nvme0n7" in names())
            host.call("bdev_null_resize", name="n0", new_size=32)
            wait(lambda: host.call("bdev_get_bdevs", name="Nvme0n7")[0]["num_blocks"] == 8192)
            host.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=7)
            wait(lambda: "Nvme0n7" not in names())
            self.assertIn("Nvme0n1", names())
            host.call("bdev_nvme_detach_controller", name="Nvme0")

    def test_the_configuration_that_is_saved_attaches_the_controller_again(self):
        with Host() as target, Host() as host:
            port = free_port()
            export(target, port)
            host.call("bdev_nvme_set_options", bdev_retry_count=5)
            host.call("bdev_nvme_attach_controller", **where(port), ctrlr_loss_timeout_sec=60, reconnect_delay_sec=1)
            self.assertEqual(host.refused("bdev_nvme_set_options").code, -1)
            parts = host.call("framework_get_config", name="bdev")
            calls = [(call["method"], call["params"]) for call in parts if call["method"].startswith("bdev_nvme")]
            self.assertEqual([method for method, _ in calls],
                             ["bdev_nvme_set_options", "bdev_nvme_attach_controller", "bdev_nvme_set_hotplug"])
            disk = host.call("bdev_get_bdevs", name="Nvme0n1")[0]
            self.assertEqual(disk["uuid"], target.call("bdev_get_bdevs", name="m0")[0]["uuid"])
            host.stop()
            host.start()
            for method, params in calls:
                host.call(method, **params)
            self.assertEqual(host.call("bdev_get_bdevs", name="Nvme0n1")[0]["num_blocks"], 65536)


class TwoProcesses(unittest.TestCase):
    def test_what_is_written_is_read_back_with_and_without_digests_whatever_the_size(self):
        with Host() as target:
            port = free_port()
            export(target, port)
            for digests in (False, True):
                for size in ("512", "4K", "128K", "1M"):
                    with self.subTest(digests=digests, size=size):
                        load = Load(port, "-w", "randrw", "-o", size, "-q", "16", "-n", "600", hdgst=digests,
                                    ddgst=digests)
                        report = load.report()
                        self.assertGreater(report["reads"] + report["writes"], 599)

    def test_nothing_is_lost_when_the_target_restarts_under_load(self):
        with tempfile.TemporaryDirectory() as folder:
            disk = f"{folder}/disk"
            with open(disk, "wb") as file:
                file.truncate(32 << 20)
            with Host() as target:
                port = free_port()

                def serve():
                    target.call("bdev_aio_create", name="m0", filename=disk, block_size=512)
                    target.export("m0", nqn=NQN, port=port)

                serve()
                load = Load(port, "-w", "randrw", "-q", "16", "-t", "12", ctrlr_loss_timeout_sec=60,
                            reconnect_delay_sec=1)
                for _ in range(2):
                    time.sleep(2)
                    self.assertIsNone(load.process.poll())
                    target.kill()
                    time.sleep(0.5)
                    target.start()
                    serve()
                self.assertGreater(load.report()["reads"], 0)

    def test_nothing_is_lost_when_a_target_hangs_and_its_controller_is_reset_for_that(self):
        for action in ("reset", "abort"):
            with self.subTest(action=action), Host() as target:
                port = free_port()
                export(target, port)
                options = {"action_on_timeout": action, "timeout_us": 500_000, "timeout_admin_us": 500_000,
                           "keep_alive_timeout_ms": 120_000}
                load = Load(port, "-w", "randrw", "-q", "16", "-t", "8", options=options, ctrlr_loss_timeout_sec=-1,
                            reconnect_delay_sec=1)
                wait(lambda: target.call("nvmf_subsystem_get_qpairs", nqn=NQN)[1:])
                target.process.send_signal(signal.SIGSTOP)
                time.sleep(4)
                target.process.send_signal(signal.SIGCONT)
                report = load.report()
                self.assertIn("took longer than timeout_us", report["log"])
                self.assertGreater(report["reads"], 0)

    def test_io_fails_when_the_time_for_it_is_over_although_the_controller_may_still_return(self):
        with Host() as target:
            port = free_port()
            export(target, port)
            load = Load(port, "-w", "randrw", "-q", "16", "-t", "60", ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1,
                        fast_io_fail_timeout_sec=2)
            wait(lambda: target.call("nvmf_subsystem_get_qpairs", nqn=NQN)[1:])
            target.kill()
            # Without the limit, the load's I/O would wait forever.
            _, errors = load.end()
            self.assertNotEqual(load.process.returncode, 0)
            self.assertIn("ended with status", errors)

    def test_io_that_finds_no_free_queue_fails_instead_of_waiting_forever(self):
        with Host() as target:
            port = free_port()
            target.call("nvmf_create_transport", trtype="TCP", max_io_qpairs_per_ctrlr=1)
            export(target, port)
            target.call("bdev_null_create", name="n0", num_blocks=65536, block_size=512)
            target.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n0"})
            load = Load(port, "-w", "randrw", "-q", "4", "-t", "1", bdevs=("Nvme0n1", "Nvme0n2"))
            _, errors = load.end()
            self.assertNotEqual(load.process.returncode, 0)
            self.assertIn("ended with status", errors)

    def test_the_bdev_goes_when_the_controller_stays_away(self):
        with Host() as target, Host() as host:
            port = free_port()
            export(target, port)
            host.call("bdev_nvme_attach_controller", **where(port), ctrlr_loss_timeout_sec=4, reconnect_delay_sec=1,
                      fast_io_fail_timeout_sec=2)
            target.kill()
            wait(lambda: host.call("bdev_nvme_get_controllers") == [])
            self.assertEqual(host.refused("bdev_get_bdevs", name="Nvme0n1").code, -19)


if __name__ == "__main__":
    unittest.main()
