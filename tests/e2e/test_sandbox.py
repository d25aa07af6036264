"""What a running host has given up: always privileges and system calls; with --sandbox also files and capabilities."""

import os
import tempfile
import unittest

from host import Host, RpcError

# CAP_NET_BIND_SERVICE and CAP_IPC_LOCK of linux/capability.h.
KEPT = 1 << 10 | 1 << 14


def statuses(host):
    """/proc/PID/task/*/status of every thread, as dictionaries."""
    folder = f"/proc/{host.process.pid}/task"
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/status") as f:
            yield {name: value.strip() for name, _, value in (line.partition(":") for line in f)}


class Sandbox(unittest.TestCase):
    def test_every_thread_is_filtered_and_gets_no_new_privileges(self):
        with Host() as host:
            # A plugin that is loaded later has the same limits.
            host.call("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
            for status in statuses(host):
                self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"), status["Name"])
            self.assertEqual(host.log().count("seccomp: "), 1)

    def test_a_sandboxed_host_has_its_own_files_and_those_named_and_no_capabilities(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = {}
            for name in ("inside", "outside"):
                os.mkdir(f"{folder}/{name}")
                paths[name] = f"{folder}/{name}/disk"
                with open(paths[name], "wb") as f:
                    f.truncate(1 << 20)
            with Host("--sandbox", "--sandbox-path", f"{folder}/inside", "--state", f"{folder}/inside/state.json") as host:
                host.call("bdev_aio_create", name="a", filename=paths["inside"], block_size=512)
                with self.assertRaises(RpcError) as caught:
                    host.call("bdev_aio_create", name="b", filename=paths["outside"], block_size=512)
                self.assertEqual(caught.exception.code, -13, caught.exception)
                host.call("nvmf_create_transport", trtype="TCP")
                for status in statuses(host):
                    self.assertEqual(int(status["CapEff"], 16) & ~KEPT, 0, status["Name"])
                for line in ("landlock: ", "capabilities: ", "seccomp: "):
                    self.assertEqual(host.log().count(line), 1, line)
                host.stop()
                host.start()
                self.assertEqual([bdev["name"] for bdev in host.call("bdev_get_bdevs")], ["a"])


if __name__ == "__main__":
    unittest.main()
