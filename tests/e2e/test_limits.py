"""The behavior at the host's limits: memory, descriptors, connections of the RPC server, time."""

import json
import os
import resource
import socket
import subprocess
import unittest

from host import Host, read_value

PLACES = 64


class Memory(unittest.TestCase):
    def test_disks_in_ram_larger_than_the_machine_need_overcommit_but_a_state_file_has_them_made(self):
        huge = {"name": "huge", "num_blocks": 1 << 44 >> 9, "block_size": 512}
        with Host() as host:
            state = ("--state", f"{host.folder}/state.json")
            error = host.refused("bdev_malloc_create", **huge)
            self.assertEqual(error.code, -12)
            host.stop()  # then the log is complete
            self.assertIn("--overcommit", host.log(1000))
            host.start(*state, "--overcommit")
            host.call("bdev_malloc_create", **huge)
            host.stop()
            host.start(*state)
            self.assertEqual(len(host.call("bdev_get_bdevs", name="huge")), 1)
            self.assertIn("may be killed", host.log(1000))
            host.refused("bdev_malloc_create", **{**huge, "name": "more"})

    def test_a_disk_that_leaves_no_room_for_the_buffers_of_io_is_refused(self):
        with Host("-s", "256") as host:
            error = host.refused("bdev_malloc_create", name="m0", num_blocks=131072, block_size=512)
            self.assertEqual(error.code, -12)
            host.call("bdev_malloc_create", name="m0", num_blocks=65536, block_size=512)

    def test_a_limit_below_the_buffers_of_io_ends_the_start(self):
        with Host() as host:
            host.stop()
            with self.assertRaisesRegex(AssertionError, "(?s)ended with status 1.*iobuf_set_options"):
                host.start("-s", "64")


class Places(unittest.TestCase):
    def test_an_operator_gets_in_while_idle_clients_hold_all_places(self):
        with Host() as host:
            idle = [self.connect(host) for _ in range(PLACES)]
            for client in idle:
                self.ask(client)
            host.call("spdk_get_version")
            # The client that was idle longest has lost its place.
            self.assertEqual(idle[0].recv(1), b"")
            self.ask(idle[-1])
            for client in idle:
                client.close()

    def test_a_client_with_a_call_in_flight_keeps_its_place(self):
        with Host() as host:
            waiting = self.connect(host)
            params = {"name": "n0", "timeout": 20000}
            waiting.sendall(json.dumps({"id": 1, "method": "bdev_get_bdevs", "params": params}).encode())
            idle = [self.connect(host) for _ in range(PLACES - 1)]
            for client in idle:
                self.ask(client)
            # The client with a waiting call is the oldest, but an idle one loses its place.
            host.call("bdev_null_create", name="n0", num_blocks=8, block_size=512)
            self.assertEqual(read_value(waiting, "bdev_get_bdevs")["result"][0]["name"], "n0")
            for client in [waiting, *idle]:
                client.close()

    def connect(self, host):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(host.socket)
        return client

    def ask(self, client):
        client.sendall(b'{"id": 1, "method": "spdk_get_version"}')
        read_value(client, "spdk_get_version")


class Descriptors(unittest.TestCase):
    def test_the_soft_limit_is_raised_to_the_hard_one(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft >= hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
        try:
            with Host() as host, open(f"/proc/{host.process.pid}/limits") as limits:
                (line,) = [line for line in limits if line.startswith("Max open files")]
                now, most = line.split()[3:5]
                self.assertEqual(now, most)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_an_operator_gets_in_when_descriptors_have_run_out(self):
        with Host() as host:
            host.stop()
            host.start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)))
            _, port = self.exported(host)
            hosts = []
            for _ in range(60):
                client = socket.socket()
                client.settimeout(2)
                try:
                    client.connect(("127.0.0.1", port))
                except OSError:
                    break
                hosts.append(client)
            self.assertIn("version", host.call("spdk_get_version"))
            for client in hosts:
                client.close()

    def exported(self, host):
        host.call("bdev_malloc_create", name="m0", num_blocks=8192, block_size=512)
        return host.export("m0")


class ManyDisks(unittest.TestCase):
    def test_a_long_list_is_whole_and_in_order(self):
        with Host() as host:
            names = [f"n{number:03}" for number in range(150)]
            for name in names:
                host.call("bdev_null_create", name=name, num_blocks=8, block_size=512)
            listed = host.call("bdev_get_bdevs")
            self.assertEqual([bdev["name"] for bdev in listed], names)
            self.assertEqual(listed[7], host.call("bdev_get_bdevs", name="n007")[0])


class Socket(unittest.TestCase):
    def test_a_tcp_address_is_refused_and_no_file_is_made_of_it(self):
        with Host() as host:
            done = subprocess.run([os.environ["DRIVEBAY_BIN"], "serve", "-r", "127.0.0.1:5260"],
                                  cwd=host.folder, capture_output=True, text=True, timeout=30)
            self.assertEqual(done.returncode, 2)
            self.assertIn("Unix socket", done.stderr)
            self.assertFalse(os.path.exists(f"{host.folder}/127.0.0.1:5260"))


if __name__ == "__main__":
    unittest.main()
