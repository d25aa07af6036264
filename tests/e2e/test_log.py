"""The log never blocks the host, and can be rotated."""

import os
import signal
import subprocess
import time
import unittest

from host import Host, RpcError, free_port

LIMIT = 30


def until(what, condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


class Log(unittest.TestCase):
    def test_a_log_that_nobody_reads_stops_nothing(self):
        reader, writer = os.pipe()
        with Host("-L", "all") as host:
            host.stop()
            host.start(log=writer)
            os.close(writer)
            # This is far more than the pipe and the queue before it can hold.
            for number in range(3000):
                host.call("log_get_level")
            host.call("bdev_null_create", name="n0", num_blocks=8, block_size=512)
            # When somebody reads the log again, it reports how many lines are missing.
            os.set_blocking(reader, False)
            text = b""

            def is_told():
                nonlocal text
                try:
                    text += os.read(reader, 1 << 16)
                except BlockingIOError:
                    pass
                return b" log lines were dropped: " in text
            until("the log does not report dropped lines", is_told)
            pid = host.process
            host.process.send_signal(signal.SIGTERM)
            self.assertEqual(pid.wait(20), 0)
            host.process = None
        os.close(reader)

    def test_sighup_opens_a_log_file_anew(self):
        with Host() as host:
            path, old = f"{host.folder}/host.log", f"{host.folder}/host.log.1"
            host.stop()
            host.start("--log-file", path, "-L", "rpc")
            host.call("log_get_level")
            until("nothing was logged", lambda: os.path.getsize(path) > 0)
            os.rename(path, old)
            host.process.send_signal(signal.SIGHUP)
            until("the file was not created again", lambda: os.path.exists(path))
            host.call("log_get_level")
            until("nothing is logged after SIGHUP", lambda: os.path.getsize(path) > 0)
            self.assertIsNone(host.process.poll(), "SIGHUP ended the host")

    def test_lines_in_the_journal_carry_their_priority_and_no_time(self):
        with Host() as host:
            host.stop()
            path = f"{host.folder}/journal"
            with open(path, "wb") as journal:
                about = os.fstat(journal.fileno())
                host.start("-m", "0x1", log=journal.fileno(),
                           environment={"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"})
            until("nothing was logged", lambda: os.path.getsize(path) > 0)
            host.stop()
            with open(path) as journal:
                self.assertRegex(journal.read(), r"(?m)^<5>env: |^<5>app: ")

    def test_a_line_of_a_plugin_names_the_plugin_and_nothing_of_the_source(self):
        with Host("-L", "nvmf") as host:
            host.call("nvmf_create_subsystem", nqn="nqn.2026-01.io.drivebay:x")
            host.call("nvmf_delete_subsystem", nqn="nqn.2026-01.io.drivebay:x")
            host.stop()
            self.assertNotIn("target=", host.log(1000))

    def test_lines_are_words_and_plain_fields(self):
        with Host("-L", "all") as host:
            port = free_port()
            listen = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
            nqn = "nqn.2026-01.io.drivebay:x"
            for method, params in [
                ("bdev_malloc_create", {"name": "m0", "num_blocks": 64, "block_size": 512}),
                ("nvmf_create_transport", {"trtype": "TCP"}),
                ("nvmf_create_subsystem", {"nqn": nqn}),
                ("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": {"bdev_name": "m0"}}),
                ("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": listen}),
                ("bdev_malloc_delete", {"name": "m0"}),
                ("nvmf_delete_subsystem", {"nqn": nqn}),
            ]:
                host.call(method, **params)
            host.refused("bdev_malloc_delete", name="m0")
            host.stop()
            log = host.log(5000)
            self.assertIn("bdev_malloc_create", log)
            for line in log.splitlines():
                self.assertNotRegex(line, r"\b(Ok|Err|Some)\(|\bNone\b|target=")


class Flags(unittest.TestCase):
    def test_names_of_spdk_are_taken_before_the_plugin_is_loaded(self):
        with Host() as host:
            for flag in ("bdev_null", "nvmf_tcp", "nvmf", "vbdev_passthru"):
                host.call("log_set_flag", flag=flag)
                self.assertTrue(host.call("log_get_flags")[flag])
            self.assertTrue(host.call("log_get_flags")["null"])
            with self.assertRaises(RpcError):
                host.call("log_set_flag", flag="no_such_flag")


if __name__ == "__main__":
    unittest.main()
