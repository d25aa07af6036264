"""A small iSCSI initiator (RFC 7143) that does what a good one does not: it stops reading, or corrupts digests."""

import socket
import struct

from stream import Stream

LOGIN, COMMAND, NOP_OUT = 0x43, 0x01, 0x40
LOGIN_RESPONSE, SCSI_DATA_IN, NOP_IN = 0x23, 0x25, 0x20
READ_10 = 0x28
NO_TAG = 0xFFFFFFFF


class Session(Stream):
    """A session of one connection, in full feature phase."""

    def __init__(self, port, target, initiator="iqn.2001-04.com.example:host1", isid=1, **keys):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.cmd_sn = 1
        keys = {"InitiatorName": initiator, "SessionType": "Normal", "TargetName": target, **keys}
        text = "".join(f"{key}={value}\0" for key, value in keys.items()).encode()
        # From operational negotiation to full feature phase in one step.
        isid = struct.pack(">BxxxxB", 0x80, isid)
        header = struct.pack(">BBxxI6sHIxxxxII16x", LOGIN, 0x87, len(text), isid, 0, 1, self.cmd_sn, 0)
        self.socket.sendall(header + text + bytes(-len(text) % 4))
        answer = self.exactly(48)
        assert answer[0] == LOGIN_RESPONSE and answer[36] == 0, f"the target refused the login: {answer.hex()}"
        length = int.from_bytes(answer[5:8], "big")
        self.exactly(length + -length % 4)

    def read(self, tag, lba, blocks, unit=0):
        """Sends a READ (10) and does not wait for the answer."""
        cdb = struct.pack(">BxIxHx6x", READ_10, lba, blocks)
        header = struct.pack(">BBxxIQIIII16s", COMMAND, 0xC0, 0, unit << 48, tag, blocks * 512, self.cmd_sn, 0, cdb)
        self.cmd_sn += 1
        self.socket.sendall(header)

    def ping(self, digest=b""):
        header = struct.pack(">BBxxIQIIII16x", NOP_OUT, 0x80, 0, 0, 99, NO_TAG, self.cmd_sn, 0)
        self.socket.sendall(header + digest)

    def close(self):
        self.socket.close()
