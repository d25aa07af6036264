"""A vhost-user front end without a virtual machine. It shares memory and fills the rings, and can also break the rules.

    disk = FrontEnd(path)
    disk.connect()
    disk.submit(0, WRITE, sector, data)
    slot, status, data = disk.wait()
"""

import mmap
import os
import select
import socket
import struct

# Messages.
(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM,
 SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES,
 SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE) = range(1, 19)
SET_BACKEND_REQ_FD, GET_CONFIG = 21, 24
GET_INFLIGHT_FD, SET_INFLIGHT_FD = 31, 32
RESET_DEVICE, ADD_MEM_REG, REM_MEM_REG = 34, 37, 38
# Features of rings, and protocol features.
LOG_ALL, INDIRECT, EVENT_IDX, PROTOCOL, VERSION_1, PACKED = 1 << 26, 1 << 28, 1 << 29, 1 << 30, 1 << 32, 1 << 34
P_MQ, P_LOG_SHMFD, P_REPLY_ACK, P_BACKEND_REQ, P_CONFIG, P_INFLIGHT = 1, 1 << 1, 1 << 3, 1 << 5, 1 << 9, 1 << 12
# Descriptors.
NEXT, WRITABLE, AVAIL, USED = 1, 2, 1 << 7, 1 << 15
# Requests of a block device, and their results.
READ, WRITE, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2

# The address of the memory for the guest, and its address for the front end.
GUEST, USER = 0x100000, 0x7000_0000_0000
# Layout of a request in the memory, in bytes: header and status first, then the data.
SLOT, DATA = 0x11000, 0x1000
RINGS_LEN = 1 << 20
# Number of descriptors reserved for each request of a split ring.
PARTS = 4
# A device that does not answer for this many seconds has failed.
LIMIT = 60


class Closed(Exception):
    """The device has closed the session."""


class FrontEnd:
    """A session, its memory and its rings. The memory outlives sessions: `connect` again after `disconnect`."""

    def __init__(self, path, packed=False, queues=1, slots=32, features=0, protocol=0, tracked=True):
        self.path, self.packed, self.slots = path, packed, slots
        self.features = features | PROTOCOL | VERSION_1 | (PACKED if packed else 0)
        self.protocol = protocol | P_MQ | P_REPLY_ACK | P_CONFIG | (P_INFLIGHT if tracked else 0)
        self.length = RINGS_LEN + queues * slots * SLOT
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, self.length)
        self.memory = mmap.mmap(self.fd, self.length)
        # A store through this view is one machine store. struct would store byte by byte.
        self.u16 = memoryview(self.memory).cast("H")
        self.rings = [Ring(self, index) for index in range(queues)]
        self.inflight = None
        self.socket = None

    # ---- messages -----------------------------------------------------------------------------

    def open(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(self.path)

    def send(self, request, payload=b"", fds=(), needs_reply=False):
        header = struct.pack("<III", request, 1 | (8 if needs_reply else 0), len(payload))
        try:
            socket.send_fds(self.socket, [header + payload], list(fds))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error

    def receive(self, request):
        header, fds = self.exactly(12, fds=True)
        number, _, length = struct.unpack("<III", header)
        assert number == request, f"answer to {number}, asked {request}"
        return self.exactly(length)[0], fds

    def exactly(self, length, fds=False):
        data, found = b"", []
        while len(data) < length:
            try:
                more, some, _, _ = socket.recv_fds(self.socket, length - len(data), 1 if fds else 0)
            except ConnectionResetError as error:
                raise Closed from error
            if not more:
                raise Closed
            data, found = data + more, found + list(some)
        return data, found

    def ask(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        return self.receive(request)[0]

    def tell(self, request, payload=b"", fds=()):
        """Sends a message and waits until the device has executed it."""
        self.send(request, payload, fds, needs_reply=True)
        assert self.receive(request)[0] == bytes(8)

    def number(self, request):
        return struct.unpack("<Q", self.ask(request))[0]

    def is_closed(self):
        """Waits until the device closes the session (True) or sends something (False)."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    # ---- sessions -----------------------------------------------------------------------------

    def connect(self):
        """Connects, sets everything up and starts the rings. The area for requests in flight is kept from session to
        session."""
        self.open()
        self.agree()
        self.share_memory()
        if self.protocol & P_INFLIGHT:
            self.share_inflight()
        for ring in self.rings:
            ring.start()

    def agree(self):
        offered = self.number(GET_FEATURES)
        assert self.features & ~offered == 0, f"{self.features & ~offered:#x} is not offered"
        offered = self.number(GET_PROTOCOL_FEATURES)
        assert self.protocol & ~offered == 0, f"{self.protocol & ~offered:#x} is not offered"
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
        self.send(SET_OWNER)
        self.send(SET_FEATURES, struct.pack("<Q", self.features))

    def region(self):
        return struct.pack("<QQQQ", GUEST, self.length, USER, 0)

    def share_memory(self):
        self.tell(SET_MEM_TABLE, struct.pack("<II", 1, 0) + self.region(), [self.fd])

    def share_inflight(self):
        size = self.slots * PARTS
        if self.inflight is None:
            self.send(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, len(self.rings), size, 0))
            payload, (fd,) = self.receive(GET_INFLIGHT_FD)
            self.inflight = fd, payload
        fd, payload = self.inflight
        self.tell(SET_INFLIGHT_FD, payload, [fd])

    def disconnect(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def close(self):
        self.disconnect()
        for ring in self.rings:
            os.close(ring.kick)
            os.close(ring.call)
        if self.inflight is not None:
            os.close(self.inflight[0])
        self.u16.release()
        self.memory.close()
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def config(self, length=60):
        """The first bytes of the configuration space."""
        return self.ask(GET_CONFIG, struct.pack("<III", 0, length, 0) + bytes(length))[12:]

    def capacity(self):
        """Size of a block device, in sectors."""
        return struct.unpack_from("<Q", self.config(8))[0]

    # ---- requests of a block device -----------------------------------------------------------

    def place(self, slot, ring=0):
        return RINGS_LEN + (ring * self.slots + slot) * SLOT

    def submit(self, slot, kind, sector=0, data=b"", length=0, ring=0):
        """Submits a request: `data` goes to the device, `length` bytes come from it."""
        place = self.place(slot, ring)
        self.memory[place:place + 17] = struct.pack("<IIQB", kind, 0, sector, 0xff)
        self.memory[place + DATA:place + DATA + len(data)] = data
        buffers = [(place, 16, 0)]
        if data or length:
            buffers.append((place + DATA, len(data) or length, 0 if data else WRITABLE))
        buffers.append((place + 16, 1, WRITABLE))
        self.rings[ring].offer(slot, buffers, length)

    def wait(self, ring=0):
        """Waits for the next completed request. Returns its slot, status and data."""
        return self.rings[ring].wait(self)

    def run(self, kind, sector=0, data=b"", length=0, ring=0):
        """Submits one request alone. Returns its status and data."""
        self.submit(0, kind, sector, data, length, ring)
        slot, status, read = self.wait(ring)
        assert slot == 0
        return status, read


class Ring:
    """A ring, split or packed, in the front end's memory."""

    def __init__(self, front, index):
        self.front, self.index = front, index
        self.size = front.slots * PARTS
        self.descriptors = index * 0x8000
        self.available, self.used = self.descriptors + 0x4000, self.descriptors + 0x6000
        assert self.size * 16 <= 0x4000
        self.kick, self.call = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        self.next_available = self.next_used = 0
        self.wraps = [1, 1]
        self.entries = {}
        self.ended = []
        self.outstanding = {}

    def start(self, base=None):
        """Starts the ring. Without a base it continues where a killed device stopped."""
        front, number = self.front, self.index
        if base is None:
            # A VMM can read the used index of a split ring, but knows nothing about a packed ring of a killed device.
            base = 0x8000_8000 if front.packed else self.front.u16[(self.used + 2) // 2]
        front.send(SET_VRING_NUM, struct.pack("<II", number, self.size))
        front.send(SET_VRING_BASE, struct.pack("<II", number, base))
        front.send(SET_VRING_ADDR, struct.pack("<IIQQQQ", number, 0, USER + self.descriptors, USER + self.used,
                                               USER + self.available, GUEST + self.used))
        front.send(SET_VRING_KICK, struct.pack("<Q", number), [self.kick])
        front.send(SET_VRING_CALL, struct.pack("<Q", number), [self.call])
        front.tell(SET_VRING_ENABLE, struct.pack("<II", number, 1))

    def stop(self):
        """Stops the ring and returns its base."""
        return struct.unpack("<II", self.front.ask(GET_VRING_BASE, struct.pack("<II", self.index, 0)))[1]

    def offer(self, slot, buffers, length=0):
        """Makes a chain available and kicks the device."""
        self.outstanding[slot] = length
        if self.front.packed:
            self.offer_packed(slot, buffers)
        else:
            self.offer_split(slot, buffers)
        os.eventfd_write(self.kick, 1)

    def offer_split(self, slot, buffers):
        front, head = self.front, slot * PARTS
        for part, (place, length, flags) in enumerate(buffers):
            more = NEXT if part + 1 < len(buffers) else 0
            struct.pack_into("<QIHH", front.memory, self.descriptors + 16 * (head + part),
                             GUEST + place, length, flags | more, head + part + 1)
        front.u16[(self.available + 4) // 2 + self.next_available % self.size] = head
        self.next_available = (self.next_available + 1) & 0xffff
        front.u16[(self.available + 2) // 2] = self.next_available

    def offer_packed(self, slot, buffers):
        front, first = self.front, None
        self.entries[slot] = len(buffers)
        for part, (place, length, flags) in enumerate(buffers):
            more = NEXT if part + 1 < len(buffers) else 0
            lap = AVAIL if self.wraps[0] else USED
            at = self.descriptors + 16 * self.next_available
            struct.pack_into("<QIH", front.memory, at, GUEST + place, length, slot)
            if first is None:
                first = at, flags | more | lap
            else:
                front.u16[(at + 14) // 2] = flags | more | lap
            self.next_available += 1
            if self.next_available == self.size:
                self.next_available, self.wraps[0] = 0, 1 - self.wraps[0]
        # The device must see the whole chain at once.
        front.u16[(first[0] + 14) // 2] = first[1]

    def take(self):
        """Slots of the requests that the device has completed."""
        slots = []
        while (slot := self.take_packed() if self.front.packed else self.take_split()) is not None:
            assert slot in self.outstanding, f"slot {slot} was completed twice"
            slots.append(slot)
        return slots

    def take_split(self):
        front = self.front
        if front.u16[(self.used + 2) // 2] == self.next_used:
            return None
        head, _ = struct.unpack_from("<II", front.memory, self.used + 4 + 8 * (self.next_used % self.size))
        self.next_used = (self.next_used + 1) & 0xffff
        return head // PARTS

    def take_packed(self):
        front = self.front
        at = self.descriptors + 16 * self.next_used
        if front.u16[(at + 14) // 2] & (AVAIL | USED) != (AVAIL | USED if self.wraps[1] else 0):
            return None
        slot = front.u16[(at + 12) // 2]
        self.next_used += self.entries[slot]
        if self.next_used >= self.size:
            self.next_used, self.wraps[1] = self.next_used - self.size, 1 - self.wraps[1]
        return slot

    def has_ended(self):
        """Whether the device has completed a request that nobody has taken yet."""
        self.ended += self.take()
        return bool(self.ended)

    def wait(self, front):
        """Waits for the next request that the device completes."""
        while not self.has_ended():
            ready, _, _ = select.select([self.call], [], [], LIMIT)
            assert ready, f"ring {self.index}: no call within {LIMIT} s, outstanding {sorted(self.outstanding)}"
            os.eventfd_read(self.call)
        slot = self.ended.pop(0)
        place, length = front.place(slot, self.index), self.outstanding.pop(slot)
        return slot, front.memory[place + 16], front.memory[place + DATA:place + DATA + length]


# Rings of a SCSI host, and their requests.
CONTROL, EVENTS, REQUESTS = 0, 1, 2
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, UNIT_RESET, QUERY_TASK = 0, 1, 2, 5, 6
SCSI_OK, OVERRUN, ABORTED, BAD_TARGET, SUCCEEDED, REJECTED, INCORRECT_LUN = 0, 1, 2, 3, 10, 11, 12
INOUT, HOTPLUG, CHANGE = 1, 2, 4
HEADER, RESPONSE = 51, 108


class ScsiFrontEnd(FrontEnd):
    """A SCSI host: a control ring, an event ring and one ring of requests."""

    def __init__(self, path, features=INOUT | HOTPLUG | CHANGE, **options):
        super().__init__(path, queues=3, features=features, **options)

    def lun(self, target, lun=0):
        return struct.pack(">BBHI", 1, target, 0x4000 | lun, 0)

    def command(self, slot, cdb, data=b"", length=0, target=0, lun=0, tag=0):
        """Submits a command: `data` goes to the device, `length` bytes may come from it."""
        place = self.place(slot, REQUESTS)
        header = self.lun(target, lun) + struct.pack("<QBBB", tag, 0, 0, 0) + bytes(cdb).ljust(32, b"\0")
        self.memory[place:place + HEADER] = header
        self.memory[place + 0x100:place + 0x100 + RESPONSE] = b"\xff" * RESPONSE
        self.memory[place + DATA:place + DATA + len(data)] = data
        buffers = [(place, HEADER, 0)]
        if data:
            buffers.append((place + DATA, len(data), 0))
        buffers.append((place + 0x100, RESPONSE, WRITABLE))
        if length:
            buffers.append((place + DATA, length, WRITABLE))
        self.rings[REQUESTS].offer(slot, buffers, length)

    def ended(self):
        """Waits for the next completed command. Returns slot, response, status, residual, sense data and data."""
        slot, _, data = self.wait(REQUESTS)
        place = self.place(slot, REQUESTS) + 0x100
        length, residual, _, status, response = struct.unpack("<IIHBB", self.memory[place:place + 12])
        return slot, response, status, residual, self.memory[place + 12:place + 12 + length], data

    def execute(self, cdb, data=b"", length=0, target=0, lun=0):
        """Submits one command alone. Returns response, status, residual, sense data and data."""
        self.command(0, cdb, data, length, target, lun)
        slot, *rest = self.ended()
        assert slot == 0
        return rest

    def manage(self, function, target=0, lun=0, tag=0):
        """Sends a task management function and returns its response."""
        place = self.place(0, CONTROL)
        self.memory[place:place + 24] = struct.pack("<II", 0, function) + self.lun(target, lun) + struct.pack("<Q", tag)
        self.memory[place + 32] = 0xff
        self.rings[CONTROL].offer(0, [(place, 24, 0), (place + 32, 1, WRITABLE)])
        self.wait(CONTROL)
        return self.memory[place + 32]

    def give_event_buffers(self, count=4):
        for slot in range(count):
            self.rings[EVENTS].offer(slot, [(self.place(slot, EVENTS), 16, WRITABLE)])

    def event(self):
        """Waits for the next event. Returns its number, target and reason. The device gets the event's buffer back."""
        slot, _, _ = self.wait(EVENTS)
        place = self.place(slot, EVENTS)
        event, one, target, unit, _, reason = struct.unpack("<IBBHII", self.memory[place:place + 16])
        assert (one, unit) == (1, 0), "Linux uses the number of the unit unchanged"
        self.rings[EVENTS].offer(slot, [(place, 16, WRITABLE)])
        return event, target, reason
