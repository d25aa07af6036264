"""Configurations of SPDK's iSCSI target."""

import os
import unittest

from host import Host, free_port
from test_iscsi import run

HERE = os.path.dirname(os.path.realpath(__file__))
TARGET = "iqn.2016-06.io.spdk:disk"


class SavedBySpdk(unittest.TestCase):
    """A configuration that save_config of SPDK's iscsi_tgt printed: two targets share a bdev, one of them uses CHAP."""

    def load(self, host, **replaced):
        """Restarts the host with the configuration, in which some values are replaced. Returns the port."""
        with open(f"{HERE}/spdk-iscsi-config.json") as f:
            text = f.read()
        port = free_port()
        host.stop()
        path = f"{host.folder}/spdk.json"
        for old, new in {"38261": str(port), **replaced}.items():
            text = text.replace(old, new)
        with open(path, "w") as f:
            f.write(text)
        host.start("-c", path)
        return port

    def test_it_loads_and_serves(self):
        with Host() as host:
            port = self.load(host)
            nodes = {node["name"]: node for node in host.call("iscsi_get_target_nodes")}
            self.assertEqual(sorted(nodes), [f"{TARGET}1", f"{TARGET}2"])
            self.assertEqual(nodes[f"{TARGET}1"]["chap_group"], 1)
            for user, target, is_admitted in (
                ("u1%a-secret-of-u1@", f"{TARGET}1/1", True),
                ("u1%another-secret@", f"{TARGET}1/1", False),
                ("", f"{TARGET}1/0", False),
                ("", f"{TARGET}2/0", True),
            ):
                status, text = run("iscsi-inq", f"iscsi://{user}127.0.0.1:{port}/{target}")
                self.assertEqual(status == 0, is_admitted, f"{user} {target}: {text}")

    def test_it_loads_with_a_secret_that_is_shorter_than_the_standard_asks_for(self):
        with Host() as host:
            port = self.load(host, **{"a-secret-of-u1": "6bytes"})
            for user, is_admitted in (("u1%6bytes@", True), ("u1%7-bytes@", False)):
                status, text = run("iscsi-inq", f"iscsi://{user}127.0.0.1:{port}/{TARGET}1/1")
                self.assertEqual(status == 0, is_admitted, f"{user}: {text}")
            log = host.log(1000)
            self.assertIn("a CHAP secret has fewer than 12 bytes", log)
            self.assertNotIn("6bytes", log)


if __name__ == "__main__":
    unittest.main()
