"""Projects that `drivebay plugin new` writes build outside of this repository, pass their own check, and work in a
host."""

import os
import shutil
import subprocess
import tempfile
import unittest

import block_client
import fabric_client
import vendor
from host import Host

NQN = "nqn.2026-01.io.drivebay:template"
MIB = 1 << 20


class Templates(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="drivebay-test.")
        self.addCleanup(shutil.rmtree, self.folder)

    def built(self, kind, lang):
        """A host with the unchanged template's plugin, after the plugin has passed the whole suite of its kind."""
        name = f"t{lang[0]}_{kind}"
        plugin, text = vendor.check(vendor.new(self.folder, name, kind, lang), name, lang)
        self.assertIn("may be loaded", text)
        self.assertIn(" 0 failed", text.splitlines()[-1])
        return name, Host(plugin_dir=vendor.plugin_dir(self.folder, plugin))

    def exported(self, host, bdev):
        _, port = host.export(bdev, NQN)
        vendor.verify_over_tcp(port, NQN, 4 * MIB)

    def bdev(self, lang):
        name, made = self.built("bdev", lang)
        with made as host:
            host.call(f"bdev_{name}_create", name="D0", num_blocks=32768, block_size=512)
            self.exported(host, "D0")

    def filter(self, lang):
        name, made = self.built("filter", lang)
        with made as host:
            host.call("bdev_malloc_create", name="M0", num_blocks=32768, block_size=512)
            host.call(f"bdev_{name}_create", name="D0", base_bdev_name="M0")
            self.exported(host, "D0")

    def test_a_bdev_in_rust(self):
        self.bdev("rust")

    def test_a_bdev_in_c(self):
        self.bdev("c")

    def test_a_filter_in_rust(self):
        self.filter("rust")

    def test_a_filter_in_c(self):
        self.filter("c")

    def test_a_transport_in_rust(self):
        name, made = self.built("transport", "rust")
        with made as host:
            host.call("bdev_malloc_create", name="M0", num_blocks=32768, block_size=512)
            path = self.serve(host, name.upper())
            namespace = fabric_client.Namespace(path, NQN)
            namespace.verify(1 * MIB)
            namespace.close()

    def serve(self, host, trtype):
        path = f"{self.folder}/socket"
        host.call("nvmf_create_transport", trtype=trtype)
        host.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "M0"})
        host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address={"trtype": trtype, "traddr": path})
        return path

    def test_a_target_in_rust(self):
        name, made = self.built("target", "rust")
        with made as host:
            host.call("bdev_malloc_create", name="M0", num_blocks=32768, block_size=512)
            path = f"{self.folder}/socket"
            host.call(f"{name}_export", bdev_name="M0", path=path)
            self.assertEqual(host.refused(f"{name}_export", bdev_name="M0", path=f"{path}2").code, -1)
            disk = block_client.Disk(path)
            disk.verify(1 * MIB)
            disk.send(1, 9, lba=32768, blocks=1)
            self.assertEqual(disk.receive()[:2], (9, -22))
            host.call("bdev_malloc_delete", name="M0")
            with self.assertRaises((EOFError, ConnectionError)):
                disk.receive()
            self.assertEqual(host.refused(f"{name}_unexport", path=path).code, -2)

    def test_what_cannot_be_created_is_reported(self):
        for args, text in (
            (("x", "--kind", "target", "--lang", "c"), "allowed in C: bdev, filter"),
            (("X", "--kind", "bdev", "--lang", "c"), "NAME: "),
            (("x", "--kind", "bdev", "--lang", "rust", "--sdk", self.folder), "drivebay-sdk-"),
        ):
            done = subprocess.run([os.environ["DRIVEBAY_BIN"], "plugin", "new", *args], cwd=self.folder,
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertIn(text, done.stderr)
        self.assertEqual(os.listdir(self.folder), [])


if __name__ == "__main__":
    unittest.main()
