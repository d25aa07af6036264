"""The guest's scripts against the kernel's own target: what fails here is the harness, not the host."""

from nvme_guest import NQN, NvmeGuestTest


class AgainstTheKernelsTarget(NvmeGuestTest):
    def test_tree_with_digests(self):
        self.run_script("tree.sh", env={"TARGET": "kernel", "CONNECT": "-g -G"})
        nqns = [record["subnqn"] for record in self.found("discovery.json")["records"]]
        self.assertIn(NQN, nqns)

    def test_a_script_that_fails_is_noticed(self):
        with self.assertRaisesRegex(AssertionError, "ended with"):
            # Nobody listens on the discard port of the guest itself.
            self.run_script("tree.sh", port=9, env={"TADDR": "127.0.0.1"})
