"""The tool `drivebay nvme`, which shows NVMe/TCP controllers and measures them without a server of its own."""

import json
import os
import subprocess
import unittest

from host import Host, free_port
from test_nvme import NQN, export

PROGRAM = os.environ["DRIVEBAY_BIN"]


def nvme(*args):
    return subprocess.run([PROGRAM, "nvme", *args], text=True, capture_output=True, timeout=60)


class Tool(unittest.TestCase):
    def setUp(self):
        host = self.enterContext(Host())
        self.port = free_port()
        export(host, self.port)
        self.at = f"127.0.0.1:{self.port}"

    def json(self, command, *args):
        done = nvme(command, self.at, *args, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_it_discovers_and_lists_what_a_target_has(self):
        records = self.json("discover")["records"]
        (record,) = [record for record in records if record["subnqn"] == NQN]
        self.assertEqual((record["trtype"], record["traddr"], record["trsvcid"]), ("tcp", "127.0.0.1", str(self.port)))
        for more in ((), ("--nqn", NQN)):
            (namespace,) = self.json("list", *more)["namespaces"]
            self.assertEqual((namespace["nsid"], namespace["num_blocks"], namespace["block_size"]), (1, 65536, 512))
        self.assertIn("32 MiB", nvme("list", self.at).stdout)

    def test_it_shows_a_controller_and_a_namespace(self):
        controller = self.json("identify", "--nqn", NQN)
        self.assertEqual((controller["subnqn"], controller["sn"]), (NQN, "TEST"))
        namespace = self.json("identify", "--nqn", NQN, "--nsid", "1")
        self.assertEqual((namespace["nsze"], namespace["block_size"]), (65536, 512))
        self.assertIn("nsze", nvme("identify", self.at, "-n", NQN, "-i", "1").stdout)

    def test_it_measures_and_says_what_is_wrong(self):
        told = self.json("perf", "--nqn", NQN, "-t", "1", "-q", "8")
        self.assertGreater(told["ios"], 0)
        self.assertGreaterEqual(told["latency_us"]["max"], told["latency_us"]["p50"])
        wrong = nvme("perf", self.at, "--nqn", NQN, "-o", "1000")
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("a multiple of 512", wrong.stderr)
        self.assertEqual(nvme("identify", self.at, "--nqn", "nqn.2026-01.io.drivebay:no").returncode, 1)

    def test_an_unknown_command_is_reported(self):
        done = subprocess.run([PROGRAM, "nonsense"], text=True, capture_output=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("nonsense", done.stderr)


if __name__ == "__main__":
    unittest.main()
