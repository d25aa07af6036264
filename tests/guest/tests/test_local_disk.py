"""Local disks of the host's machine: mounted, left by a killed host, frozen."""

import os

from nvme_guest import NvmeGuestTest


class LocalDisk(NvmeGuestTest):
    def test_mounted_disks_are_left_alone_and_a_frozen_one_stops_no_other(self):
        disks = [f"{self.rundir}/{name}" for name in ("vda", "vdb")]
        for path in disks:
            with open(path, "wb") as f:
                f.truncate(64 << 20)
        env = {name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR")}
        self.run_script("local_disk.sh", env=env, net="none", disk=disks)
