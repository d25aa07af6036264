"""A Linux kernel in QEMU whose disk is a vhost-user-blk device of the host under test."""

import os

from host import Host
from nvme_guest import NvmeGuestTest
from test_nvme_tcp import DISK_SIZE, file_disk, ram_disk


class VhostBlock(NvmeGuestTest):
    def controller(self, host, bdev, **params):
        """Makes a controller and returns QEMU's arguments for a disk on it."""
        host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name=bdev, **params)
        packed = "on" if params.get("packed_ring") else "off"
        return [
            # The device maps the guest's memory.
            "-machine memory-backend=mem -object memory-backend-memfd,id=mem,size=1G,share=on",
            f"-chardev socket,id=c0,path={host.folder}/disk.sock,reconnect=1 "
            f"-device vhost-user-blk-pci,chardev=c0,num-queues=1,packed={packed}",
        ]

    def host(self):
        """A host whose sockets are in its own folder."""
        host = Host()
        os.environ["DRIVEBAY_SOCKET_DIR"] = host.folder
        self.addCleanup(os.environ.pop, "DRIVEBAY_SOCKET_DIR")
        return host

    def run_disk(self, make_disk, **params):
        with self.host() as host:
            arguments = self.controller(host, make_disk(host), **params)
            self.end(self.begin("vhost_disk.sh", net="none", qemu_arg=arguments))
            self.assertEqual(int(self.found("size")), DISK_SIZE)

    def test_a_file_system_on_split_rings(self):
        self.run_disk(ram_disk)
        self.assertEqual(self.found("serial"), "Ram0")

    def test_a_file_system_on_packed_rings_with_a_write_cache(self):
        self.run_disk(lambda host: file_disk(host)[0], packed_ring=True)
        self.assertEqual(self.found("cache"), "write back")
