"""A host in the guest, whose bdevs are /dev/nbdX of the guest's kernel."""

import os

from nvme_guest import NvmeGuestTest


class KernelDisk(NvmeGuestTest):
    def test_a_disk_is_verified_resized_detached_by_others_and_stopped_while_it_starts(self):
        env = {name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR", "SPDK_RPC")}
        self.run_script("nbd.sh", env=env, net="none", mem="1536M")
