"""A small iSCSI initiator (RFC 7143). It also does what a good one does not: it stops reading, or corrupts digests."""

import socket
import struct

from stream import Stream

LOGIN, COMMAND, NOP_OUT = 0x43, 0x01, 0x40
SCSI_RESPONSE, LOGIN_RESPONSE, SCSI_DATA_IN, NOP_IN, R2T = 0x21, 0x23, 0x25, 0x20, 0x31
TEST_UNIT_READY, READ_10, WRITE_10, SERVICE_ACTION_IN, PERSISTENT_IN, PERSISTENT_OUT = 0x00, 0x28, 0x2A, 0x9E, 0x5E, 0x5F
COMPARE_AND_WRITE = 0x89
INQUIRY, LOG_SENSE, MODE_SELECT = 0x12, 0x4D, 0x15
READ_CAPACITY_16 = 0x10
NO_TAG = 0xFFFFFFFF


class CheckCondition(Exception):
    """A command ended with sense: key, code and qualifier."""

    def __init__(self, sense):
        self.sense = sense[2] & 15, sense[12], sense[13]
        super().__init__("sense {:x} {:02x} {:02x}".format(*self.sense))


class ReservationConflict(Exception):
    """Another initiator has reserved the unit."""


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def login_request(target, initiator="iqn.2001-04.com.example:host1", isid=1, **keys):
    """A login that goes from operational negotiation to full feature phase in one step."""
    keys = {"InitiatorName": initiator, "SessionType": "Normal", "TargetName": target, **keys}
    text = "".join(f"{key}={value}\0" for key, value in keys.items()).encode()
    isid = struct.pack(">BxxxxB", 0x80, isid)
    header = struct.pack(">BBxxI6sHIxxxxII16x", LOGIN, 0x87, len(text), isid, 0, 1, 1, 0)
    return header + text + bytes(-len(text) % 4)


class Session(Stream):
    """A session with one connection, in full feature phase."""

    def __init__(self, port, target, **login):
        self.socket = connect(port)
        self.cmd_sn = 1
        self.socket.sendall(login_request(target, **login))
        answer = self.exactly(48)
        assert answer[0] == LOGIN_RESPONSE and answer[36] == 0, f"the target refused the login: {answer.hex()}"
        length = int.from_bytes(answer[5:8], "big")
        self.exactly(length + -length % 4)

    def begin(self, tag, cdb, wanted=0, length=0, data=b"", unit=0):
        """Sends a command that writes `length` bytes, with immediate data, and does not wait for the answer."""
        flags = 0x80 | (0x40 if wanted else 0) | (0x20 if length else 0)
        header = struct.pack(">BBxxIQIIII16s", COMMAND, flags, len(data), unit << 48, tag, wanted or length,
                             self.cmd_sn, 0, cdb)
        self.cmd_sn += 1
        self.socket.sendall(header + data + bytes(-len(data) % 4))

    def read(self, tag, lba, blocks, unit=0):
        """Sends a READ (10) and does not wait for the answer."""
        self.begin(tag, struct.pack(">BxIxHx", READ_10, lba, blocks), wanted=blocks * 512, unit=unit)

    def command(self, cdb, wanted=0, data=b"", unit=0):
        """Sends a command with immediate data, and returns what it reads. No other command may be in progress."""
        self.begin(7, cdb, wanted, len(data), data, unit)
        read = bytearray(wanted)
        while True:
            header = self.exactly(48)
            length = int.from_bytes(header[5:8], "big")
            segment = self.exactly(length + -length % 4)[:length]
            if header[0] == NOP_IN:
                continue
            if header[0] == SCSI_DATA_IN:
                offset = int.from_bytes(header[40:44], "big")
                read[offset:offset + length] = segment
                if not header[1] & 1:
                    continue
            assert header[0] in (SCSI_DATA_IN, SCSI_RESPONSE), f"an answer of another kind: {header.hex()}"
            status = header[3]
            if status == 0x02:
                raise CheckCondition(segment[2:])
            if status == 0x18:
                raise ReservationConflict()
            assert status == 0, f"status {status:#x}"
            return bytes(read)

    def test_unit_ready(self, unit=0):
        self.command(bytes([TEST_UNIT_READY]), unit=unit)

    def read_all(self, lba, length, unit=0):
        return self.command(struct.pack(">BxIxH", READ_10, lba, length // 512), wanted=length, unit=unit)

    def write_all(self, lba, data, unit=0):
        """Writes at most 64 KiB."""
        self.command(struct.pack(">BxIxH", WRITE_10, lba, len(data) // 512), data=data, unit=unit)

    def num_blocks(self, unit=0):
        cdb = struct.pack(">BBQI", SERVICE_ACTION_IN, READ_CAPACITY_16, 0, 32)
        return int.from_bytes(self.command(cdb, wanted=32, unit=unit)[:8], "big") + 1

    def ping(self, digest=b""):
        header = struct.pack(">BBxxIQIIII16x", NOP_OUT, 0x80, 0, 0, 99, NO_TAG, self.cmd_sn, 0)
        self.socket.sendall(header + digest)

    def answer_ping(self, header):
        """Answers a NOP-In of the target."""
        answer = struct.pack(">BBxxI8sI4sII16x", NOP_OUT, 0x80, 0, header[8:16], NO_TAG, header[20:24], self.cmd_sn, 0)
        self.socket.sendall(answer)

    def close(self):
        self.socket.close()

# Service actions of PERSISTENT RESERVE OUT, and types of reservations.
REGISTER, RESERVE, RELEASE, CLEAR = 0, 1, 2, 3
WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS = 1, 3


def reserve_out(session, action, key=0, new_key=0, kind=0, aptpl=False):
    """PERSISTENT RESERVE OUT to unit 0."""
    cdb = struct.pack(">BBBxxIx", PERSISTENT_OUT, action, kind, 24)
    session.command(cdb, data=struct.pack(">QQ4xB3x", key, new_key, aptpl))


def reservation_keys(session):
    """The keys of the registrants of unit 0."""
    data = session.command(struct.pack(">BBxxxxxHx", PERSISTENT_IN, 0, 512), wanted=512)
    length = int.from_bytes(data[4:8], "big")
    return [int.from_bytes(data[at:at + 8], "big") for at in range(8, 8 + length, 8)]


def can_persist(session):
    """Whether unit 0 reports that reservations can outlast a loss of power (PTPL_C)."""
    data = session.command(struct.pack(">BBxxxxxHx", PERSISTENT_IN, 2, 8), wanted=8)
    return bool(data[2] & 1)
