"""A vendor's filter, built by a C compiler alone, between a Linux kernel's file system and a file."""

import os

import vendor
from host import Host
from nvme_guest import NQN, NvmeGuestTest

DISK_SIZE = 64 << 20
# The magic of ext4 is at 0x38 of the superblock, which is at 1024.
MAGIC_AT, MAGIC = 1024 + 0x38, b"\x53\xef"


class VendorFilter(NvmeGuestTest):
    def test_a_kernels_file_system_through_the_masking_filter(self):
        plugin = vendor.compile_c(f"{vendor.EXAMPLES}/xor_filter.c", f"{self.rundir}/xor.so")
        with Host(plugin_dir=vendor.plugin_dir(self.rundir, plugin)) as host:
            path = f"{host.folder}/base.img"
            with open(path, "wb") as f:
                f.truncate(DISK_SIZE)
            host.call("bdev_aio_create", name="File0", filename=path, block_size=512)
            host.call("bdev_xor_create", name="X0", base_bdev_name="File0", key=0x5EED)
            _, port = host.export("X0", NQN)
            self.run_script("tree.sh", port)
            with open(path, "rb") as f:
                f.seek(MAGIC_AT)
                self.assertNotEqual(f.read(2), MAGIC, "the base holds what the kernel wrote, unmasked")
            self.assertGreater(os.stat(path).st_blocks, 0)

    def test_a_kernels_file_system_through_it_on_a_ram_disk(self):
        plugin = vendor.compile_c(f"{vendor.EXAMPLES}/xor_filter.c", f"{self.rundir}/xor.so")
        with Host(plugin_dir=vendor.plugin_dir(self.rundir, plugin)) as host:
            host.call("bdev_malloc_create", name="Ram0", block_size=512, num_blocks=DISK_SIZE // 512)
            host.call("bdev_xor_create", name="X0", base_bdev_name="Ram0", key=1)
            _, port = host.export("X0", NQN)
            self.run_script("tree.sh", port)


if __name__ == "__main__":
    import unittest

    unittest.main()
