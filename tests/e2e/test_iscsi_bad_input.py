"""Bad initiators that the iSCSI target must survive: crowds, initiators that stop reading, corrupt digests, or log in
twice."""

import unittest

import iscsi_client
from host import Host
from iscsi_client import NOP_IN, SCSI_DATA_IN, Session
from test_exports import serve_iscsi
from test_iscsi import TARGET, run, serve

# Allowed difference of memory in KiB, for the allocator's own caches.
SLACK = 2048


def resident_kib(host):
    with open(f"/proc/{host.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4


class BadInput(unittest.TestCase):
    def test_a_thousand_connections_that_come_and_go_leave_no_memory_behind(self):
        with Host() as host:
            port = serve(host)
            for count in (300, 1000):
                before = resident_kib(host)
                for _ in range(count):
                    iscsi_client.socket.create_connection(("127.0.0.1", port), timeout=20).close()
            self.assertLess(resident_kib(host) - before, SLACK)
            for count in (100, 300):
                before = resident_kib(host)
                for number in range(count):
                    Session(port, TARGET, isid=number % 5).close()
            self.assertLess(resident_kib(host) - before, SLACK)
            self.still_serves(port)

    def test_initiators_that_stop_reading_hold_nobody_up(self):
        with Host() as host:
            port = serve(host)
            deaf = [Session(port, TARGET, isid=number) for number in range(8)]
            for session in deaf:
                for tag in range(64):
                    session.read(tag, 0, 256)
            self.still_serves(port)
            self.assertEqual(len(host.call("iscsi_get_connections")), len(deaf))
            for session in deaf:
                session.close()
            self.still_serves(port)

    def test_a_corrupted_digest_ends_the_connection_only(self):
        with Host() as host:
            port = serve(host)
            other = Session(port, TARGET, isid=2)
            broken = Session(port, TARGET, isid=1, HeaderDigest="CRC32C")
            broken.ping(digest=bytes(4))
            with self.assertRaises(EOFError):
                broken.exactly(1)
            other.ping()
            self.assertEqual(other.exactly(48)[0], NOP_IN)
            for session in (broken, other):
                session.close()

    def test_a_login_takes_the_place_of_a_session_of_the_same_port(self):
        with Host() as host:
            port = serve(host)
            old = Session(port, TARGET, isid=1)
            new = Session(port, TARGET, isid=1)
            with self.assertRaises(EOFError):
                old.exactly(1)
            new.read(7, 0, 1)
            answer = new.exactly(48)
            self.assertEqual((answer[0], int.from_bytes(answer[16:20], "big")), (SCSI_DATA_IN, 7))
            for session in (old, new):
                session.close()

    def test_a_login_takes_the_place_of_a_session_whose_io_hangs(self):
        with Host() as host:
            host.call("bdev_malloc_create", name="m0", num_blocks=2048, block_size=512)
            host.call("bdev_error_create", base_name="m0")
            port = serve_iscsi(host, "EE_m0")
            old = Session(port, TARGET, isid=1)
            host.call("bdev_error_inject_error", name="EE_m0", io_type="read", error_type="pending", num=1)
            old.read(7, 0, 1)
            # The answer to a ping comes after the read has begun.
            old.ping()
            self.assertEqual(old.exactly(48)[0], NOP_IN)
            new = Session(port, TARGET, isid=1)
            with self.assertRaises(EOFError):
                old.exactly(1)
            self.assertEqual(new.read_all(0, 512), bytes(512))
            self.assertEqual(len(host.call("iscsi_get_connections")), 1)
            host.call("bdev_error_resume_pending", name="EE_m0")
            for session in (old, new):
                session.close()

    def still_serves(self, port):
        status, text = run("iscsi-inq", f"iscsi://127.0.0.1:{port}/{TARGET}/0")
        self.assertEqual(status, 0, text)


if __name__ == "__main__":
    unittest.main()
