"""File systems on logical volumes and their clones, over NVMe/TCP."""

import os
import subprocess
import time

from host import Host
from nvme_guest import NQN, NvmeGuestTest

MIB = 1 << 20
SNAPSHOTS = 4
# The guest writes as much and deletes it again.
FILLING_MIB = 32


class LogicalVolumes(NvmeGuestTest):
    def test_ext4_and_xfs_on_thin_volumes_and_clones_are_trimmed_while_snapshots_are_taken(self):
        with Host() as host:
            path = f"{host.folder}/disk"
            with open(path, "wb") as file:
                file.truncate(4096 * MIB)
            host.call("bdev_aio_create", name="base", filename=path, block_size=512)
            host.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="store", cluster_sz=MIB)
            for system in ("ext4", "xfs"):
                host.call("bdev_lvol_create", lvs_name="store", lvol_name=system, size_in_mib=512,
                          thin_provision=True)
            _, port = host.export("store/ext4", NQN)
            self.add_namespace(host, "store/xfs")
            guest = self.begin("lvol.sh", port, env={"FILLING_MIB": str(FILLING_MIB)})
            for system in ("ext4", "xfs"):
                guest.wait_for(f"filled-{system}")
                full = self.allocated(host, system)
                guest.tell(f"counted-{system}")
                guest.wait_for(f"trimmed-{system}")
                self.assertLess(self.allocated(host, system), full - FILLING_MIB * 9 // 10)
                guest.wait_for(f"written-{system}")
                self.snapshot(host, system, f"{system}-snapshot")
                host.call("bdev_lvol_clone", snapshot_name=f"store/{system}-snapshot",
                          clone_name=f"{system}-clone")
                self.add_namespace(host, f"store/{system}-clone")
                guest.tell(f"cloned-{system}")
                guest.wait_for(f"mounted-{system}")
                self.take_and_delete_snapshots(host, system)
                guest.tell(f"snapped-{system}")
            self.end(guest)
            host.stop()
            check = subprocess.run([os.environ["DRIVEBAY_BIN"], "lvol", "check", path],
                                   capture_output=True, text=True, timeout=60)
            self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
            host.start()

    @staticmethod
    def add_namespace(host, bdev):
        host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev})

    @staticmethod
    def snapshot(host, volume, name):
        host.call("bdev_lvol_snapshot", lvol_name=f"store/{volume}", snapshot_name=name)

    def take_and_delete_snapshots(self, host, system):
        """Of volume and clone while they are written. All but the last one of each go again, under the volume
        that is written or under a later snapshot."""
        for number in range(SNAPSHOTS):
            for volume in (system, f"{system}-clone"):
                self.snapshot(host, volume, f"{volume}-{number}")
                if number > 0:
                    host.call("bdev_lvol_delete", name=f"store/{volume}-{number - 1}")
            time.sleep(0.5)  # The guest writes in between; nothing depends on how much.

    @staticmethod
    def allocated(host, name):
        volumes = host.call("bdev_lvol_get_lvols")
        return next(volume for volume in volumes if volume["name"] == name)["num_allocated_clusters"]
