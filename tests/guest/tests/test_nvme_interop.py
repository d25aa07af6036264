"""The host as an initiator of a target that is not ours: that of the guest's kernel."""

import os

from nvme_guest import NvmeGuestTest


class Interop(NvmeGuestTest):
    def test_the_kernels_target_serves_us_with_and_without_digests_and_may_go_away(self):
        env = {name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR")}
        self.run_script("interop.sh", env=env, mem="1536M")
