"""The host's iSCSI initiator against the kernel's target, both in one guest."""

import os

from nvme_guest import NvmeGuestTest


class Lio(NvmeGuestTest):
    def test_the_initiator_uses_the_kernel_s_target_with_mutual_chap_and_digests_and_over_an_interruption(self):
        env = {name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR")}
        self.run_script("lio.sh", env=env, net="none", mem="1024M")
        (bdev,) = self.found("bdev.json")
        self.assertEqual((bdev["num_blocks"] * bdev["block_size"], bdev["product_name"]), (64 << 20, "iSCSI LUN"))
