"""The program itself: start, refusal to start, stop."""

import os
import signal
import stat
import subprocess
import unittest

from host import Host


class StartAndStop(unittest.TestCase):
    def test_sigterm_and_sigint_end_it_cleanly_and_the_socket_goes(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number.name), Host() as host:
                host.stop(number)
                self.assertFalse(os.path.exists(host.socket))

    def test_the_socket_is_the_users_alone(self):
        with Host() as host:
            self.assertEqual(stat.S_IMODE(os.stat(host.socket).st_mode), 0o600)

    def test_a_stale_socket_is_replaced(self):
        with Host() as host:
            host.kill()
            self.assertTrue(os.path.exists(host.socket))
            host.start()
            self.assertIn("version", host.call("spdk_get_version"))

    def test_a_live_socket_is_respected(self):
        with Host() as host:
            second = subprocess.run(
                [os.environ["DRIVEBAY_BIN"], "serve", "-r", host.socket], capture_output=True,
                text=True, timeout=20, env={**os.environ, "DRIVEBAY_RUNTIME": host.folder})
            self.assertNotEqual(second.returncode, 0)
            self.assertIn(host.socket, second.stdout + second.stderr)
            host.call("spdk_get_version")

    def test_two_hosts_run_beside_each_other(self):
        with Host() as one, Host() as two:
            one.call("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
            self.assertEqual(two.call("bdev_get_bdevs"), [])

    def test_kill_by_rpc_ends_it(self):
        with Host() as host:
            self.assertIs(host.call("spdk_kill_instance", sig_name="SIGTERM"), True)
            self.assertEqual(host.process.wait(20), 0)
            host.process = None


if __name__ == "__main__":
    unittest.main()
