"""A vendor's filter, built by a C compiler alone, between a Linux kernel's file system and a RAM disk."""

import unittest

import vendor
from fabric_client import READ, Namespace
from host import Host
from nvme_guest import NQN, NvmeGuestTest

DISK_SIZE = 64 << 20
# What fio's verification puts before each of its blocks; it writes the front of the disk last.
FIO_MAGIC = b"\xca\xac"


class VendorFilter(NvmeGuestTest):
    def test_a_kernels_file_system_through_the_masking_filter(self):
        built = [vendor.compile_c(f"{vendor.EXAMPLES}/{name}.c", f"{self.rundir}/{name}.so")
                 for name in ("xor_filter", "unix_transport")]
        with Host(plugin_dir=vendor.plugin_dir(self.rundir, *built)) as host:
            host.call("bdev_malloc_create", name="Ram0", block_size=512, num_blocks=DISK_SIZE // 512)
            host.call("bdev_xor_create", name="X0", base_bdev_name="Ram0", key=0x5EED)
            _, port = host.export("X0", NQN)
            self.run_script("filter.sh", port)
            host.call("nvmf_delete_subsystem", nqn=NQN)
            # The kernel wrote through the mask: behind it the data is there, on the base it is not.
            self.assertEqual(self.first_bytes(host, "X0"), FIO_MAGIC)
            host.call("bdev_xor_delete", name="X0")
            self.assertNotEqual(self.first_bytes(host, "Ram0"), FIO_MAGIC)

    def first_bytes(self, host, bdev):
        path = f"{host.folder}/socket"
        if all(transport["trtype"] != "UNIX" for transport in host.call("nvmf_get_transports")):
            host.call("nvmf_create_transport", trtype="UNIX")
        host.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev})
        host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address={"trtype": "UNIX", "traddr": path})
        namespace = Namespace(path, NQN)
        _, data = namespace.io.command(READ, nsid=1, tail=namespace.place(0, 512), want=512)
        namespace.close()
        host.call("nvmf_delete_subsystem", nqn=NQN)
        return data[:2]


if __name__ == "__main__":
    unittest.main()
