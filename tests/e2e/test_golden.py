"""Old plugin binaries: every later host loads them, and they work. See tests/abi/golden."""

import os
import shutil
import tempfile
import unittest

import fabric_client
import vendor
from host import Host

GOLDEN = f"{vendor.ROOT}/tests/abi/golden"
NQN = "nqn.2026-01.io.drivebay:golden"
MIB = 1 << 20
FILES = [f"{lang}_{kind}.so" for lang in ("c", "rust") for kind in ("bdev", "filter", "transport")]


class Golden(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="drivebay-test.")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.plugins = vendor.plugin_dir(cls.folder)
        for name in FILES:
            # A checkout may have made the file group-writable.
            os.chmod(shutil.copy(f"{GOLDEN}/{name}", f"{cls.plugins}/{name}"), 0o755)

    def host(self):
        return Host(plugin_dir=self.plugins)

    def test_all_of_them_may_be_loaded_and_are_small(self):
        self.assertEqual(sorted(name for name in os.listdir(GOLDEN) if name.endswith(".so")), sorted(FILES))
        for name in FILES:
            self.assertIn("may be loaded", vendor.drivebay("plugin", "inspect", f"{self.plugins}/{name}"))
        self.assertLess(sum(os.path.getsize(f"{GOLDEN}/{name}") for name in FILES), 2 * MIB)

    def disk_and_filter(self, create_disk, create_filter, **key):
        with self.host() as host:
            host.call(create_disk, name="D0", num_blocks=32768, block_size=512)
            host.call(create_filter, name="F0", base_bdev_name="D0", **key)
            _, port = host.export("F0", NQN)
            vendor.verify_over_tcp(port, NQN, 4 * MIB)
            host.call("nvmf_delete_subsystem", nqn=NQN)
            host.call(create_filter.replace("create", "delete"), name="F0")
            host.call(create_disk.replace("create", "delete"), name="D0")
            for name in [plugin["name"] for plugin in host.call("plugin_list") if plugin["path"].startswith(self.folder)
                         and plugin["state"] == "serving" and plugin["kind"] in ("bdev", "filter")]:
                host.call("plugin_unload", name=name)

    def test_a_disk_and_a_filter_in_c(self):
        self.disk_and_filter("bdev_ramdisk_create", "bdev_xor_create", key=5)

    def test_a_disk_and_a_filter_in_rust(self):
        self.disk_and_filter("bdev_golden_bdev_create", "bdev_golden_filter_create")

    def test_each_stands_on_the_other(self):
        self.disk_and_filter("bdev_ramdisk_create", "bdev_golden_filter_create")
        self.disk_and_filter("bdev_golden_bdev_create", "bdev_xor_create", key=5)

    def test_the_transports(self):
        with self.host() as host:
            host.call("bdev_malloc_create", name="M0", num_blocks=32768, block_size=512)
            host.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
            host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "M0"})
            for trtype in ("UNIX", "GOLDEN_TRANSPORT"):
                path = f"{self.folder}/{trtype}"
                host.call("nvmf_create_transport", trtype=trtype)
                host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address={"trtype": trtype, "traddr": path})
                namespace = fabric_client.Namespace(path, NQN)
                namespace.verify(1 * MIB)
                namespace.close()


if __name__ == "__main__":
    unittest.main()
