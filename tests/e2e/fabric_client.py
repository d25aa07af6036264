"""An NVMe host for fabrics over Unix sockets, with the framing that the transports of the templates and of
sdk/c/examples use: a u32 with the length of the data, a u32 0, the command or response, the data."""

import socket
import struct

from stream import Stream

READ, WRITE, IDENTIFY, FABRICS = 2, 1, 6, 0x7F
CONNECT, PROPERTY_SET = 1, 0
ENABLE = 0x00460001


class Refused(Exception):
    """A response with a status that is not 0."""


class Queue(Stream):
    """One queue of a controller."""

    def __init__(self, path, nqn, qid=0, cntlid=0xFFFF):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        data = bytearray(1024)
        data[0:16] = bytes([7] * 16)
        struct.pack_into("<H", data, 16, cntlid)
        data[256:256 + len(nqn)] = nqn.encode()
        host = b"nqn.2026-01.io.drivebay:host"
        data[512:512 + len(host)] = host
        tail = struct.pack("<HHHBBI", 0, qid, 31, 0, 0, 0)
        result, _ = self.command(FABRICS, fctype=CONNECT, tail=tail, data=data)
        self.cntlid = result & 0xFFFF

    def close(self):
        self.socket.close()

    def send(self, opcode, cid=1, nsid=0, fctype=None, tail=b"", data=b"", want=0):
        second = fctype if fctype is not None else nsid
        sgl_id = 0x01 if data else 0x5A
        sgl = struct.pack("<QI3xB", 0, len(data) or want, sgl_id)
        command = struct.pack("<BBHI16x", opcode, 0x40, cid, second) + sgl + tail
        self.socket.sendall(struct.pack("<II", len(data), 0) + command.ljust(64, b"\0") + bytes(data))

    def receive(self):
        """Command id, status, first dwords and data of the next response."""
        length, _ = struct.unpack("<II", self.exactly(8))
        result, _, cid, status = struct.unpack("<QIHH", self.exactly(16))
        return cid, status >> 1, result, self.exactly(length)

    def command(self, opcode, **fields):
        self.send(opcode, **fields)
        _, status, result, data = self.receive()
        if status:
            raise Refused(f"status {status:#x}")
        return result, data


class Namespace:
    """Namespace 1 behind a controller: an admin queue and one I/O queue."""

    def __init__(self, path, nqn, block_size=512):
        self.block_size = block_size
        self.admin = Queue(path, nqn)
        self.admin.command(FABRICS, fctype=PROPERTY_SET, tail=struct.pack("<B3xIQ", 0, 0x14, ENABLE))
        self.io = Queue(path, nqn, qid=1, cntlid=self.admin.cntlid)

    def identify(self):
        """The model number of the controller."""
        _, data = self.admin.command(IDENTIFY, tail=struct.pack("<I", 1), want=4096)
        return data[24:64].decode().strip()

    def place(self, lba, length):
        return struct.pack("<QI", lba, length // self.block_size - 1)

    def verify(self, size, step=32 << 10, depth=16):
        """Writes pieces with many in flight, reads them back in another order, and compares."""
        places = range(0, size, step)
        content = {at: bytes((at // step * 7 + i // 512) & 0xFF for i in range(step)) for at in places}
        for opcode, order in ((WRITE, list(places)), (READ, list(reversed(places)))):
            for first in range(0, len(order), depth):
                batch = order[first:first + depth]
                for cid, at in enumerate(batch):
                    fields = {"data": content[at]} if opcode == WRITE else {"want": step}
                    self.io.send(opcode, cid=cid, nsid=1, tail=self.place(at // self.block_size, step), **fields)
                for _ in batch:
                    cid, status, _, data = self.io.receive()
                    assert status == 0, f"status {status:#x}"
                    assert opcode == WRITE or data == content[batch[cid]], f"other data at {batch[cid]}"

    def close(self):
        self.io.close()
        self.admin.close()
