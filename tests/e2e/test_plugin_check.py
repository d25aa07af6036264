"""`drivebay plugin check`: every plugin of this repository passes its suite."""

import json
import os
import subprocess
import tempfile
import unittest

# Seconds for one plugin. It takes a few; the limit allows for a busy machine.
LIMIT = 240


def check(plugin, *flags):
    """Exit code and report."""
    path = os.path.join(os.environ["DRIVEBAY_PLUGIN_DIR"], f"libdrivebay_{plugin}.so")
    with tempfile.TemporaryDirectory(prefix="drivebay-test.") as folder:
        done = subprocess.run([os.environ["DRIVEBAY_BIN"], "plugin", "check", path, "--json", *flags],
                              capture_output=True, text=True, timeout=LIMIT,
                              env={**os.environ, "TMPDIR": folder})
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


class PluginCheck(unittest.TestCase):
    maxDiff = None

    def passes(self, plugin, skipped=()):
        code, report = check(plugin)
        self.assertIsInstance(report, dict, report)
        failed = [one for one in report["checks"] if one["outcome"] == "failed"]
        self.assertEqual((code, failed), (0, []))
        # The skipped checks are known, so no check can stop working unnoticed.
        names = {one["name"] for one in report["checks"] if one["outcome"] == "skipped"}
        self.assertEqual(names, set(skipped))

    def test_null_passes_but_for_the_data_that_it_does_not_keep(self):
        self.passes("null", ["data::survives_a_random_mix", "data::is_the_same_on_every_thread",
                             "module::refuses_what_is_past_its_end"])

    def test_malloc_passes(self):
        self.passes("malloc")

    def test_aio_passes_with_both_of_its_methods(self):
        self.passes("aio")

    def test_passthru_passes_over_a_disk_with_faults(self):
        self.passes("passthru")

    def test_nvmf_passes_with_an_initiator(self):
        self.passes("nvmf")

    def test_nvmf_tcp_passes_with_an_initiator(self):
        self.passes("nvmf_tcp")


if __name__ == "__main__":
    unittest.main()
