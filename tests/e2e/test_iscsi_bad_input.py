"""Bad initiators that the iSCSI target must survive: crowds, initiators that stop reading or answering, corrupt digests,
or log in twice."""

import os
import select
import struct
import time
import unittest

from host import Host
from iscsi_client import (COMPARE_AND_WRITE, NOP_IN, R2T, SCSI_DATA_IN, SCSI_RESPONSE, WRITE_10, Session, connect,
                          login_request)
from test_exports import serve_iscsi
from test_iscsi import TARGET, run, serve
from test_nvme import wait

# Allowed difference of memory in KiB, for the allocator's own caches.
SLACK = 2048
# Connections per second.
RATE = 1000


def resident_kib(host):
    with open(f"/proc/{host.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4


def descriptors(host):
    return len(os.listdir(f"/proc/{host.process.pid}/fd"))


def storm(port, seconds):
    """Opens and drops connections for some seconds, at RATE unless the machine is slower: half of them with a part of a
    login, an eighth with a whole login, the others without a byte."""
    login = login_request(TARGET)
    begin = time.monotonic()
    for number in range(RATE * seconds):
        time.sleep(max(0, begin + number / RATE - time.monotonic()))
        if time.monotonic() > begin + seconds:
            break
        if number % 8 == 0:
            Session(port, TARGET, isid=number // 8 % 5).close()
            continue
        connection = connect(port)
        if number % 2:
            connection.sendall(login[:1 + number % (len(login) - 1)])
        connection.close()


class BadInput(unittest.TestCase):
    def test_a_thousand_connects_per_second_leave_no_memory_and_no_descriptors_behind(self):
        with Host() as host:
            port = serve(host)
            opened = descriptors(host)
            for seconds in (1, 3):
                before = resident_kib(host)
                storm(port, seconds)
                wait(lambda: descriptors(host) <= opened)
                self.assertEqual(host.call("iscsi_get_connections"), [])
            self.assertLess(resident_kib(host) - before, SLACK)
            self.still_serves(port)

    def test_an_initiator_that_stops_answering_is_dropped_and_its_commands_end(self):
        with Host() as host:
            host.call("iscsi_set_options", nop_in_interval=1, nop_timeout=5)
            port = serve(host)
            silent, other = Session(port, TARGET, isid=1), Session(port, TARGET, isid=2)
            # The target asks for the data of this write, and no data comes. COMPARE AND WRITE waits for its end.
            silent.begin(1, struct.pack(">BxIxHx", WRITE_10, 0, 1), length=512)
            self.assertEqual(silent.exactly(48)[0], R2T)
            swap = struct.pack(">BxQxxxBxx", COMPARE_AND_WRITE, 0, 1)
            other.begin(2, swap, length=1024, data=bytes(512) + b"x" * 512)
            is_dropped = is_swapped = False
            while not (is_dropped and is_swapped):
                readable, _, _ = select.select([silent.socket, other.socket], [], [], 60)
                self.assertTrue(readable, "the target neither pings nor drops anybody")
                if silent.socket in readable:
                    is_dropped |= not silent.socket.recv(4096)
                if other.socket in readable:
                    header = other.exactly(48)
                    if header[0] == NOP_IN:
                        other.answer_ping(header)
                    else:
                        self.assertEqual((header[0], header[3]), (SCSI_RESPONSE, 0))
                        is_swapped = True
            self.assertEqual(len(host.call("iscsi_get_connections")), 1)
            self.assertEqual(other.read_all(0, 512), b"x" * 512)
            for session in (silent, other):
                session.close()

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
