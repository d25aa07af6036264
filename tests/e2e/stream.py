"""The common part of clients over stream sockets."""


class Stream:
    """A client whose connection is `self.socket`."""

    def exactly(self, length):
        """The next `length` bytes. EOFError if the target hangs up before it has sent them."""
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise EOFError("the target hung up")
            data += more
        return data
