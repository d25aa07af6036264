"""A Linux kernel in QEMU whose disks are vhost-user devices of the host under test."""

import os

from guest import HERE, root_disk, soak_only
from host import Host
from nvme_guest import NvmeGuestTest
from test_nvme_tcp import DISK_SIZE, MIB, file_disk, ram_disk


# The device maps the guest's memory.
MEMORY = "-machine memory-backend=mem -object memory-backend-memfd,id=mem,size=1G,share=on"
# Kills of the host in one guest. `cargo xtask soak` makes more.
KILLS = 10 if os.environ.get("DRIVEBAY_SOAK") else 1


class VhostGuest(NvmeGuestTest):
    def host(self):
        """A host whose sockets are in its own folder."""
        host = Host()
        host.flags = ("-S", host.folder)
        return host

    def controller(self, host, bdev, **params):
        """Creates a controller. Returns QEMU's arguments for a disk on it."""
        self.serve(host, bdev, **params)
        packed = "on" if params.get("packed_ring") else "off"
        return [
            MEMORY,
            f"-chardev socket,id=c0,path={host.folder}/disk.sock,reconnect=1 "
            f"-device vhost-user-blk-pci,chardev=c0,num-queues=1,packed={packed}",
        ]

    def serve(self, host, bdev, **params):
        host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name=bdev, **params)


class VhostBlock(VhostGuest):
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

    def kill_under_load(self, **params):
        with self.host() as host:
            arguments = self.controller(host, file_disk(host)[0], **params)
            guest = self.begin("vhost_killed.sh", net="none", qemu_arg=arguments, env={"KILLS": str(KILLS)})
            for number in range(KILLS):
                guest.wait_for(f"loaded{number}")
                host.kill()
                host.start()
                self.serve(host, file_disk(host)[0], **params)
                guest.tell(f"restarted{number}")
            self.end(guest)

    def test_a_guest_does_not_notice_that_the_host_is_killed_under_load(self):
        self.kill_under_load()

    @soak_only
    def test_a_guest_with_packed_rings_does_not_notice_it_either(self):
        self.kill_under_load(packed_ring=True)


class VhostRoot(VhostGuest):
    def test_a_guest_boots_from_its_disk_and_sees_neither_a_killed_host_nor_an_old_size(self):
        with self.host() as host:
            path, size = f"{host.folder}/File0.img", 128 * MIB
            root_disk(path, size, ["fio", "resize2fs"], [f"{HERE}/scripts/vhost_root.sh"])
            arguments = self.controller(host, file_disk(host)[0])
            guest = self.begin("vhost_root.sh", net="none", qemu_arg=arguments, root="/dev/vda")
            guest.wait_for("loaded")
            host.kill()
            host.start()
            self.serve(host, file_disk(host)[0])
            guest.tell("restarted")
            guest.wait_for("verified")
            os.truncate(path, 2 * size)
            host.call("bdev_aio_rescan", name="File0")
            self.end(guest)
            self.assertEqual(int(self.found("sectors")), 2 * size // 512)


class VhostScsi(VhostGuest):
    def test_a_file_system_on_a_scsi_disk_while_another_comes_grows_and_goes(self):
        with self.host() as host:
            host.call("vhost_create_scsi_controller", ctrlr="disk.sock")
            add = lambda number, bdev: host.call("vhost_scsi_controller_add_target", ctrlr="disk.sock",
                                                 scsi_target_num=number, bdev_name=bdev)
            add(0, ram_disk(host))
            second, path = file_disk(host, "second")
            arguments = [MEMORY, f"-chardev socket,id=c0,path={host.folder}/disk.sock "
                                 "-device vhost-user-scsi-pci,chardev=c0,num_queues=1"]
            guest = self.begin("vhost_scsi.sh", net="none", qemu_arg=arguments)
            guest.wait_for("ready")
            add(3, second)
            guest.wait_for("verified")
            os.truncate(path, 2 * DISK_SIZE)
            host.call("bdev_aio_rescan", name=second)
            guest.wait_for("grown")
            host.call("vhost_scsi_controller_remove_target", ctrlr="disk.sock", scsi_target_num=3)
            self.end(guest)
            self.assertEqual(int(self.found("size")), DISK_SIZE)
            self.assertEqual(self.found("names"), "Drivebay Ram0")
