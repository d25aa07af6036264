"""NBD exports, tested with Debian's libnbd-bin and qemu-utils, and with a client that breaks the rules."""

import json
import os
import socket
import struct
import subprocess
import unittest

import spdk_client
from host import Host, RpcError

NUM_BLOCKS = 32768
SIZE = NUM_BLOCKS * 512
# Options and replies of the negotiation.
EXPORT_NAME, ABORT, LIST, GO, STRUCTURED, SET_META, EXTENDED = 1, 2, 3, 7, 8, 10, 11
ACK, INFO, ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN = 1, 3, 1 << 31 | 1, 1 << 31 | 3, 1 << 31 | 6
# Commands, and their errors.
READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, PAYLOAD = 1, 32
EPERM, EINVAL, ENOSPC = 1, 22, 28


def run(*command, limit=120):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit)
    return done.returncode, done.stdout


class Client:
    """A client that can send anything."""

    def __init__(self, path, flags=3):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.framing = "simple"
        assert self.take(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.send(struct.pack(">I", flags))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def take(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise EOFError(f"after {len(data)} of {length} bytes")
            data += more
        return data

    def is_closed(self):
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def option(self, number, data=b""):
        """Sends an option and returns the kinds of its replies."""
        self.send(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        kinds = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.take(20))
            assert (magic, option) == (0x3e889045565a9, number)
            self.take(length)
            kinds.append(kind)
            if kind == ACK or kind & 1 << 31:
                return kinds

    def go(self, name="m0"):
        return self.option(GO, struct.pack(">I", len(name)) + name.encode() + b"\0\0")

    def request(self, command, offset, length, data=b"", flags=0, cookie=7):
        if self.framing == "extended":
            self.send(struct.pack(">IHHQQQ", 0x21e41c71, flags, command, cookie, offset, length) + data)
        else:
            self.send(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + data)

    def reply(self, length=0):
        """Error and data of a simple reply."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert (magic, cookie) == (0x67446698, 7)
        return error, b"" if error else self.take(length)

    def chunks(self):
        """The chunks of one reply, as (kind, payload)."""
        chunks = []
        while True:
            if self.framing == "extended":
                magic, flags, kind, cookie, _, length = struct.unpack(">IHHQQQ", self.take(32))
                assert (magic, cookie) == (0x6e8a278c, 7)
            else:
                magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.take(20))
                assert (magic, cookie) == (0x668e33ef, 7)
            chunks.append((kind, self.take(length)))
            if flags & 1:
                return chunks


class Nbd(unittest.TestCase):
    def serve(self, host, **export):
        """Starts a server with one export of a malloc disk. Returns its path."""
        path = f"{host.folder}/nbd.sock"
        host.call("bdev_malloc_create", name="m0", num_blocks=NUM_BLOCKS, block_size=512)
        host.call("nbd_create_server", name="s0", path=path)
        host.call("nbd_server_add_export", server="s0", bdev_name="m0", **export)
        return path

    def test_nbdinfo_lists_the_exports(self):
        with Host() as host:
            path = self.serve(host, description="a disk")
            status, text = run("nbdinfo", "--json", "--list", f"nbd+unix:///?socket={path}")
            self.assertEqual(status, 0, text)
            told = json.loads(text)
            self.assertEqual(told["structured"], True)
            export = told["exports"][0]
            self.assertEqual((export["export-name"], export["description"]), ("m0", "a disk"))
            self.assertEqual((export["export-size"], export["block_size_minimum"]), (SIZE, 512))
            self.assertTrue(export["can_multi_conn"] and export["can_fua"] and export["can_trim"])
            status, text = run("nbdinfo", "--map", f"nbd+unix:///m0?socket={path}")
            self.assertEqual(status, 0, text)

    def test_nbdcopy_reads_back_what_it_wrote(self):
        with Host() as host:
            path = self.serve(host)
            first, second = f"{host.folder}/first", f"{host.folder}/second"
            with open(first, "wb") as file:
                file.write(os.urandom(SIZE))
            uri = f"nbd+unix:///m0?socket={path}"
            for command in (("nbdcopy", "--flush", first, uri), ("nbdcopy", uri, second)):
                status, text = run(*command)
                self.assertEqual(status, 0, text)
            with open(first, "rb") as a, open(second, "rb") as b:
                self.assertTrue(a.read() == b.read(), "the copy differs")

    def test_qemu_img_compares_and_measures(self):
        with Host() as host:
            path = self.serve(host)
            image = f"{host.folder}/image"
            with open(image, "wb") as file:
                file.write(os.urandom(SIZE // 2))
                file.truncate(SIZE)
            uri = f"nbd+unix:///m0?socket={path}"
            convert = ("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, uri)
            for command in (convert, ("qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri)):
                status, text = run(*command)
                self.assertEqual(status, 0, text)

    def test_an_old_client_reads_and_writes_more_than_a_piece(self):
        with Host() as host, Client(self.serve(host), flags=1) as client:
            client.send(b"IHAVEOPT" + struct.pack(">II", EXPORT_NAME, 2) + b"m0")
            size, _ = struct.unpack(">QH", client.take(10))
            self.assertEqual((size, client.take(124)), (SIZE, bytes(124)))
            data = os.urandom(1 << 20)
            client.request(WRITE, 4096, len(data), data, flags=FUA)
            self.assertEqual(client.reply(), (0, b""))
            client.request(READ, 4096, len(data))
            self.assertEqual(client.reply(len(data)), (0, data))

    def test_extended_headers_carry_every_command(self):
        with Host() as host, Client(self.serve(host)) as client:
            self.assertEqual(client.option(EXTENDED), [ACK])
            context = struct.pack(">I", 2) + b"m0" + struct.pack(">II", 1, 15) + b"base:allocation"
            self.assertEqual(client.option(SET_META, context)[-1], ACK)
            self.assertEqual(client.go()[-1], ACK)
            client.framing = "extended"
            client.request(WRITE, 0, 512, b"x" * 512, flags=PAYLOAD)
            self.assertEqual(client.chunks(), [(0, b"")])
            client.request(READ, 0, 512)
            self.assertEqual(client.chunks(), [(1, bytes(8) + b"x" * 512)])
            client.request(STATUS, 0, SIZE)
            self.assertEqual(client.chunks(), [(6, struct.pack(">IIQQ", 1, 1, SIZE, 0))])
            for command in (FLUSH, TRIM, ZEROES, CACHE):
                client.request(command, 0, 0 if command == FLUSH else 4096)
                self.assertEqual(client.chunks(), [(0, b"")], command)
            client.request(WRITE, 0, 512, b"", flags=0)
            self.assertEqual(client.chunks()[0][0], 1 << 15 | 1, "a write without the payload flag must fail")

    def test_requests_that_are_not_allowed_fail_and_the_connection_goes_on(self):
        with Host() as host, Client(self.serve(host)) as client:
            client.go()
            for command, offset, length, data, wanted in (
                (READ, 0, 100, b"", EINVAL),
                (READ, 100, 512, b"", EINVAL),
                (READ, SIZE, 512, b"", EINVAL),
                (READ, 2**64 - 512, 1024, b"", EINVAL),
                (READ, 0, 0, b"", EINVAL),
                (WRITE, SIZE - 512, 1024, bytes(1024), ENOSPC),
                (STATUS, 0, 512, b"", EINVAL),
                (99, 0, 512, b"", EINVAL),
            ):
                client.request(command, offset, length, data)
                self.assertEqual(client.reply()[0], wanted, (command, offset, length))
            client.request(READ, 0, 512, flags=1 << 9)
            self.assertEqual(client.reply()[0], EINVAL)
            client.request(READ, 0, 512, flags=FUA)
            self.assertEqual(client.reply(512)[0], 0, "every command may have FUA")

    def test_a_read_only_export_is_not_written(self):
        with Host() as host, Client(self.serve(host, readonly=True)) as client:
            client.go()
            for command, data in ((WRITE, bytes(512)), (TRIM, b""), (ZEROES, b"")):
                client.request(command, 0, 512, data)
                self.assertEqual(client.reply()[0], EPERM)

    def test_a_client_that_breaks_the_protocol_is_disconnected(self):
        with Host() as host:
            path = self.serve(host)
            with Client(path, flags=0) as client:
                self.assertTrue(client.is_closed(), "oldstyle")
            with Client(path) as client:
                client.send(bytes(16))
                self.assertTrue(client.is_closed(), "an option without its magic")
            with Client(path) as client:
                client.send(b"IHAVEOPT" + struct.pack(">II", LIST, 1 << 30))
                self.assertTrue(client.is_closed(), "an oversize option")
            with Client(path) as client:
                self.assertEqual(client.option(77), [ERR_UNSUP])
                self.assertEqual(client.option(LIST, b"x"), [ERR_INVALID])
                self.assertEqual(client.go("nothing"), [ERR_UNKNOWN])
                self.assertEqual(client.option(ABORT), [ACK])
                self.assertTrue(client.is_closed())
            with Client(path) as client:
                client.go()
                client.send(bytes(28))
                self.assertTrue(client.is_closed(), "a request without its magic")
            with Client(path) as client:
                client.go()
                client.request(WRITE, 0, 1 << 31)
                self.assertTrue(client.is_closed(), "an oversize write")

    def test_a_connection_ends_after_the_replies_to_all_its_requests(self):
        with Host() as host:
            path = self.serve(host)
            with Client(path) as client:
                client.go()
                for _ in range(300):
                    client.request(READ, 0, 512)
                client.request(DISCONNECT, 0, 0)
                for _ in range(300):
                    self.assertEqual(client.reply(512)[0], 0)
                self.assertTrue(client.is_closed())
            with Client(path) as client:
                client.go()
                client.request(READ, 0, 512)
                client.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(client.reply(512)[0], 0)
                self.assertTrue(client.is_closed())

    def test_a_client_that_reads_no_replies_does_not_hold_others_or_the_end(self):
        with Host() as host:
            path = self.serve(host)
            with Client(path) as slow, Client(path) as other:
                slow.go()
                slow.socket.setblocking(False)
                try:
                    for _ in range(100_000):
                        slow.request(READ, 0, 131072)
                except BlockingIOError:
                    pass  # the server has stopped reading
                other.go()
                other.request(READ, 0, 512)
                self.assertEqual(other.reply(512)[0], 0)
                host.call("nbd_server_remove_export", server="s0", name="m0")
                self.assertTrue(other.is_closed())
            host.call("bdev_malloc_delete", name="m0")

    def test_a_bdev_that_goes_takes_its_export_along(self):
        with Host() as host, Client(self.serve(host)) as client:
            client.go()
            host.call("bdev_malloc_delete", name="m0")
            self.assertTrue(client.is_closed())
            self.assertEqual(host.call("nbd_get_servers")[0]["exports"], [])

    def test_a_saved_configuration_creates_the_servers_again(self):
        with Host() as host:
            path = self.serve(host, name="disk", readonly=True)
            saved = host.call("framework_get_config", name="nbd")
            told = host.call("nbd_get_servers", name="s0")
            host.call("nbd_delete_server", name="s0")
            self.assertFalse(os.path.exists(path))
            for call in saved:
                host.call(call["method"], **call["params"])
            self.assertEqual(host.call("nbd_get_servers"), told)

    def test_errors_have_the_codes_of_the_reference(self):
        with Host() as host:
            self.serve(host)
            host.call("bdev_malloc_create", name="owned", num_blocks=NUM_BLOCKS, block_size=512)
            host.call("bdev_split_create", base_bdev="owned", split_count=2)
            for method, params, code in (
                ("nbd_start_disk", {"bdev_name": "m0", "nbd_device": "/dev/sda"}, -19),
                ("nbd_start_disk", {"bdev_name": "none", "nbd_device": "/dev/nbd9999"}, -19),
                ("nbd_start_disk", {"bdev_name": "owned", "nbd_device": "/dev/nbd9999"}, -1),
                ("nbd_stop_disk", {"nbd_device": "/dev/nbd9999"}, -19),
                ("nbd_get_disks", {"nbd_device": "/dev/nbd9999"}, -19),
                ("nbd_server_add_export", {"server": "none", "bdev_name": "m0"}, -2),
                ("nbd_create_server", {"name": "s1"}, -22),
            ):
                with self.assertRaises(RpcError, msg=(method, params)) as refused:
                    host.call(method, **params)
                self.assertEqual(refused.exception.code, code, (method, params))
            self.assertEqual(host.call("nbd_get_disks"), [])

    def test_the_reference_client_calls_every_method(self):
        # No machine has the device. tests/guest has disks of a kernel.
        with Host() as host, spdk_client.Client(host.socket) as client:
            self.serve(host)
            self.assertEqual(client.call("nbd_get_disks"), [])
            for line in ("nbd_start_disk m0 /dev/nbd9999", "nbd_get_disks -n /dev/nbd9999", "nbd_stop_disk /dev/nbd9999"):
                with self.assertRaises(spdk_client.Refused, msg=line):
                    client.call(line)


if __name__ == "__main__":
    unittest.main()
