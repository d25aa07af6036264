"""The guest's scripts against the kernel's own target. A failure here is a fault of the harness, not of the host."""

from nvme_guest import NQN, NvmeGuestTest


class AgainstTheKernelsTarget(NvmeGuestTest):
    def test_tree_with_digests(self):
        self.run_script("tree.sh", env={"TARGET": "kernel", "CONNECT": "-g -G"})
        nqns = [record["subnqn"] for record in self.found("discovery.json")["records"]]
        self.assertIn(NQN, nqns)

    def test_a_script_that_fails_is_noticed(self):
        with self.assertRaisesRegex(AssertionError, "ended with"):
            # The guest itself has no listener at the discard port.
            self.run_script("tree.sh", port=9, env={"TADDR": "127.0.0.1"})
