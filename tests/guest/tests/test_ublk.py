"""A host in the guest, whose bdevs are /dev/ublkbN of the guest's kernel."""

import os

from guest import soak_only
from nvme_guest import LIMIT, NvmeGuestTest

# Kills of the host in one guest. `cargo xtask soak` makes more.
KILLS = 20 if os.environ.get("DRIVEBAY_SOAK") else 1


class KernelDisk(NvmeGuestTest):
    @soak_only
    def test_a_disk_is_verified_outlives_a_killed_host_and_goes_with_its_bdev_target_and_host(self):
        env = {name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR", "SPDK_RPC")}
        self.run_script("ublk.sh", env={**env, "KILLS": str(KILLS)}, net="none", mem="1536M",
                        limit=LIMIT + 30 * KILLS)
        self.assertEqual(self.found("cache"), "write back")
        (disk,) = self.found("disks.json")
        self.assertEqual(disk, {"ublk_device": "/dev/ublkb1", "id": 1, "queue_depth": 32, "num_queues": 2,
                                "bdev_name": "m0"})
