"""Lightweight threads move to another core only while every loaded plugin allows it."""

import os
import shutil
import tempfile
import unittest

import vendor
from host import Host


class MovingThreads(unittest.TestCase):
    def setUp(self):
        folder = tempfile.mkdtemp(prefix="drivebay-test.")
        self.addCleanup(shutil.rmtree, folder)
        plugins = vendor.plugin_dir(folder)
        # A plugin of the time before the promise. It keeps no thread-local state, but its door does not say so.
        os.chmod(shutil.copy(f"{vendor.ROOT}/tests/abi/golden/rust_bdev.so", f"{plugins}/rust_bdev.so"), 0o755)
        self.host = Host(plugin_dir=plugins)
        self.addCleanup(self.host.remove)
        self.host.start("-m", "0x3")
        self.host.call("nvmf_create_transport", trtype="TCP")

    def reactors_of(self, name):
        reactors = self.host.call("framework_get_reactors")["reactors"]
        return [reactor["lcore"] for reactor in reactors
                if name in [thread["name"] for thread in reactor["lw_threads"]]]

    def to(self, core):
        """The parameters that move a poll group."""
        [thread] = [thread for thread in self.host.call("thread_get_stats")["threads"]
                    if thread["name"] == "nvmf_tgt_poll_group_000"]
        return {"id": thread["id"], "cpumask": hex(1 << core)}

    def move(self, core):
        self.host.call("thread_set_cpumask", **self.to(core))

    def wait_for(self, core):
        for _ in range(1000):
            if self.reactors_of("nvmf_tgt_poll_group_000") == [core]:
                return
        self.fail(f"the thread has not moved to core {core}")

    def test_a_plugin_without_the_promise_keeps_every_thread_where_it_is(self):
        self.move(1)
        self.wait_for(1)
        self.host.call("plugin_load", name="golden_bdev")
        error = self.host.refused("thread_set_cpumask", **self.to(0))
        self.assertEqual((error.code, error.data["name"]), (-16, "busy"))
        self.assertIn("because plugin golden_bdev may keep thread-local state", error.message)
        self.assertEqual(self.reactors_of("nvmf_tgt_poll_group_000"), [1])
        self.host.call("plugin_unload", name="golden_bdev")
        self.move(0)
        self.wait_for(0)


if __name__ == "__main__":
    unittest.main()
