"""The programs that `cargo xtask bench` measures with, each once and short. The test checks that they run, not how
fast."""

import json
import os
import socket
import subprocess
import tempfile
import time
import unittest

from host import Host

PROGRAM = os.environ["DRIVEBAY_BIN"]
PLUGINS = os.environ["DRIVEBAY_PLUGIN_DIR"]
NULL = 'bdev_null_create {"name": "n", "num_blocks": 8192, "block_size": 512}'


def perf(*arguments, runtime):
    return [PROGRAM, "perf", "--json", "--plugin-dir", PLUGINS, "--rpc", NULL, *arguments], {
        "text": True, "env": {**os.environ, "DRIVEBAY_RUNTIME": runtime}}


class Measuring(unittest.TestCase):
    def test_loops_without_the_bus_report_as_runs_with_it_do(self):
        for flag in ("--null-loop", "--copy-loop"):
            with self.subTest(flag), tempfile.TemporaryDirectory() as folder:
                command, how = perf("-n", "2000", flag, runtime=folder)
                report = json.loads(subprocess.check_output(command, timeout=30, **how))
                self.assertEqual(report["reports"][0]["reads"], 2000)

    def test_perf_answers_calls_while_it_measures(self):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/perf.sock"
            command, how = perf("-t", "20", "-r", path, runtime=folder)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, **how) as process:
                try:
                    self.assertEqual(self.names(path), ["n"])
                    self.assertIsNone(process.poll())
                finally:
                    process.terminate()

    def names(self, path):
        end = time.monotonic() + 15
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(15)
                    client.connect(path)
                    client.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "bdev_get_bdevs"}')
                    answer = client.makefile("rb").readline()
                return [bdev["name"] for bdev in json.loads(answer)["result"]]
            except OSError:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.05)

    def test_the_probe_measures_messages(self):
        with Host("--load", "probe") as host:
            told = host.call("probe_round_trips", near=0, far=0, depth=4, round_trips=1000)
            self.assertEqual(told["round_trips"], 4000)
            self.assertGreater(told["ns"], 0)
            # The threads of the run have ended.
            names = [thread["name"] for thread in host.call("thread_get_stats")["threads"]]
            self.assertFalse([name for name in names if name.startswith("probe")])

    def test_the_load_generator_reads_and_writes_over_many_connections(self):
        with Host() as host, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            nqn = "nqn.2026-01.io.drivebay:load"
            host.call("bdev_malloc_create", name="m", num_blocks=8192, block_size=512)
            host.call("nvmf_create_transport", trtype="TCP")
            host.call("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
            host.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "m"})
            host.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address={
                "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)})
            load = [os.path.join(os.path.dirname(PROGRAM), "nvme-load"), "--address",
                    f"127.0.0.1:{port}", "--nqn", nqn, "--connections", "10", "--idle", "3",
                    "--depth", "4", "--ios", "50"]
            for more in ([], ["--write", "--io-size", "131072"]):
                out = subprocess.check_output([*load, *more], text=True, timeout=60)
                self.assertEqual(json.loads(out.splitlines()[-1])["ios"], 500)


if __name__ == "__main__":
    unittest.main()
