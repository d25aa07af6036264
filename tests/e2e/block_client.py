"""A client of the target of templates/rust/protocol: read 1, write 2, flush 3."""

import socket
import struct

from stream import Stream


class Disk(Stream):
    def __init__(self, path, block_size=512):
        self.block_size = block_size
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)

    def send(self, op, tag, lba=0, blocks=0, data=b""):
        self.socket.sendall(struct.pack("<IIQII", op, tag, lba, blocks, 0) + data)

    def receive(self, length=0):
        """Tag, status and data of the next answer; `length` of the data when it is a success."""
        tag, status = struct.unpack("<Ii", self.exactly(8))
        return tag, status, self.exactly(length if status == 0 else 0)

    def verify(self, size, step=16 << 10):
        blocks = step // self.block_size
        content = {at: bytes((at // step * 5 + i) & 0xFF for i in range(step)) for at in range(0, size, step)}
        for tag, (at, data) in enumerate(content.items()):
            self.send(2, tag, at // self.block_size, blocks, data)
        assert all(self.receive()[1] == 0 for _ in content)
        self.send(3, 0)
        assert self.receive()[:2] == (0, 0)
        places = list(content)
        for tag, at in enumerate(places):
            self.send(1, tag, at // self.block_size, blocks)
        for _ in places:
            tag, status, data = self.receive(step)
            assert status == 0 and data == content[places[tag]], f"other data at {places[tag]}"

    def close(self):
        self.socket.close()
