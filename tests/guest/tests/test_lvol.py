"""File systems on logical volumes and their clones, over NVMe/TCP."""

import os
import subprocess
import time

from guest import soak_only
from host import Host
from nvme_guest import NQN, NvmeGuestTest

MIB = 1 << 20
SNAPSHOTS = 4
# The guest writes this much and deletes it again.
FILLING_MIB = 32


class LogicalVolumes(NvmeGuestTest):
    @soak_only
    def test_ext4_on_a_thin_volume_and_its_clone_is_trimmed_while_snapshots_are_taken(self):
        self.check("ext4")

    def test_xfs_on_a_thin_volume_and_its_clone_is_trimmed_while_snapshots_are_taken(self):
        self.check("xfs")

    def check(self, system):
        with Host() as host:
            path = f"{host.folder}/disk"
            with open(path, "wb") as file:
                file.truncate(2048 * MIB)
            host.call("bdev_aio_create", name="base", filename=path, block_size=512)
            host.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="store", cluster_sz=MIB)
            host.call("bdev_lvol_create", lvs_name="store", lvol_name="volume", size_in_mib=512, thin_provision=True)
            _, port = host.export("store/volume", NQN)
            guest = self.begin("lvol.sh", port, env={"SYSTEM": system, "FILLING_MIB": str(FILLING_MIB)})
            guest.wait_for("filled")
            full = self.allocated(host, "volume")
            guest.tell("counted")
            guest.wait_for("trimmed")
            self.assertLess(self.allocated(host, "volume"), full - FILLING_MIB * 9 // 10)
            guest.wait_for("written")
            self.snapshot(host, "volume", "parent")
            host.call("bdev_lvol_clone", snapshot_name="store/parent", clone_name="clone")
            host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "store/clone"})
            guest.tell("cloned")
            guest.wait_for("mounted")
            self.take_and_delete_snapshots(host)
            guest.tell("snapped")
            self.end(guest)
            host.stop()
            check = subprocess.run([os.environ["DRIVEBAY_BIN"], "lvol", "check", path],
                                   capture_output=True, text=True, timeout=60)
            self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
            host.start()

    @staticmethod
    def snapshot(host, volume, name):
        host.call("bdev_lvol_snapshot", lvol_name=f"store/{volume}", snapshot_name=name)

    def take_and_delete_snapshots(self, host):
        """Takes snapshots of volume and clone under load, and deletes all but the last one of each."""
        for number in range(SNAPSHOTS):
            for volume in ("volume", "clone"):
                self.snapshot(host, volume, f"{volume}-{number}")
                if number > 0:
                    host.call("bdev_lvol_delete", name=f"store/{volume}-{number - 1}")
            time.sleep(0.5)  # The guest writes meanwhile. The amount does not matter.

    @staticmethod
    def allocated(host, name):
        volumes = host.call("bdev_lvol_get_lvols")
        return next(volume for volume in volumes if volume["name"] == name)["num_allocated_clusters"]
