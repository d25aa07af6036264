"""vhost-user disks, tested by a front end without a virtual machine."""

import contextlib
import os
import random
import resource
import socket
import struct
import time
import unittest

from host import Host
from vhost_client import (DATA, GET_VRING_BASE, GUEST, IOERR, LOG_ALL, OK, P_BACKEND_REQ, P_LOG_SHMFD, READ, SET_BACKEND_REQ_FD,
                          SET_FEATURES, SET_LOG_BASE, SET_MEM_TABLE, SET_VRING_ADDR, USER, WRITABLE, WRITE, Closed, FrontEnd)

BLOCK = 4096
SECTORS = BLOCK // 512
SIZE = 16 << 20
# Kills in one run. `cargo xtask soak` makes more.
KILLS = 50 if os.environ.get("DRIVEBAY_SOAK") else 5


class VhostTest(unittest.TestCase):
    def host(self):
        """A host whose sockets are in its own folder."""
        host = Host()
        host.flags = ("-S", host.folder)
        return host


class Load:
    """Verified reads and writes with as many requests in flight as the front end has slots. No two of them use the same
    block, so the content of a block is always known."""

    BLOCKS = 256

    def __init__(self, disk, seed):
        self.disk, self.random = disk, random.Random(seed)
        self.written = [0] * self.BLOCKS
        self.busy = {}
        self.version = 0

    def content(self, block, version):
        return (f"{block}.{version}.".encode() * BLOCK)[:BLOCK] if version else bytes(BLOCK)

    def submit(self, slot):
        block = self.random.choice([block for block in range(self.BLOCKS) if block not in self.busy])
        if self.random.random() < 0.7:
            self.version += 1
            self.busy[block] = slot, self.version
            self.disk.submit(slot, WRITE, block * SECTORS, self.content(block, self.version))
        else:
            self.busy[block] = slot, None
            self.disk.submit(slot, READ, block * SECTORS, length=BLOCK)

    def finish(self):
        """Takes the completion of one request and returns its slot."""
        slot, status, data = self.disk.wait()
        block = next(block for block, (other, _) in self.busy.items() if other == slot)
        _, version = self.busy.pop(block)
        assert status == OK, f"block {block}: status {status}"
        if version is None:
            self.check(block, data)
        else:
            self.written[block] = version
        return slot

    def check(self, block, data):
        wanted = self.content(block, self.written[block])
        assert data == wanted, f"block {block} holds {data[:24]}, not {wanted[:24]}"

    def check_all(self):
        for block in range(self.BLOCKS):
            status, data = self.disk.run(READ, block * SECTORS, length=BLOCK)
            assert status == OK
            self.check(block, data)


class DirtyLog:
    """The log of a migration: one bit for each page of the guest's memory."""

    def __init__(self, front):
        self.front = front
        # The log's length is not a multiple of a page, as with QEMU.
        self.length = (GUEST + front.length) // 4096 // 8 + 8
        self.fd = os.memfd_create("log")
        os.ftruncate(self.fd, self.length)

    def begin(self):
        assert self.front.ask(SET_LOG_BASE, struct.pack("<QQ", self.length, 0), [self.fd]) == bytes(8)
        self.agree(self.front.features | LOG_ALL, flags=1)

    def end(self):
        self.agree(self.front.features, flags=0)

    def agree(self, features, flags):
        front = self.front
        front.tell(SET_FEATURES, struct.pack("<Q", features))
        for ring in front.rings:
            front.tell(SET_VRING_ADDR, struct.pack("<IIQQQQ", ring.index, flags, USER + ring.descriptors, USER + ring.used,
                                                   USER + ring.available, GUEST + ring.used))

    def take(self):
        """Pages that were written since the last look, as places in the front end's memory."""
        bits = os.pread(self.fd, self.length, 0)
        os.pwrite(self.fd, bytes(self.length), 0)
        pages = [8 * index + bit for index, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1]
        return {page * 4096 - GUEST for page in pages}


class Migration(VhostTest):
    def test_the_log_names_the_pages_that_the_device_has_written_and_no_others(self):
        for packed in (False, True):
            with self.subTest(packed=packed), self.host() as host:
                host.call("bdev_malloc_create", name="m0", num_blocks=SIZE // 512, block_size=512)
                host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="m0", packed_ring=packed)
                with FrontEnd(f"{host.folder}/disk.sock", packed=packed, protocol=P_LOG_SHMFD) as disk:
                    disk.connect()
                    ring, log = disk.rings[0], DirtyLog(disk)
                    # The page of the used ring (split), or of the descriptors and the device's event area (packed).
                    of_ring = {ring.descriptors, ring.used} if packed else {ring.used}
                    self.assertEqual(disk.run(READ, 0, length=BLOCK)[0], OK)
                    self.assertEqual(log.take(), set())
                    log.begin()
                    log.take()
                    place = disk.place(0)
                    self.assertEqual(disk.run(WRITE, 0, b"a" * BLOCK)[0], OK)
                    self.assertEqual(log.take(), of_ring | {place})
                    self.assertEqual(disk.run(READ, 0, length=2 * BLOCK)[0], OK)
                    self.assertEqual(log.take(), of_ring | {place, place + DATA, place + DATA + 4096})
                    log.end()
                    log.take()
                    self.assertEqual(disk.run(READ, 0, length=BLOCK), (OK, b"a" * BLOCK))
                    self.assertEqual(log.take(), set())

    def test_a_migration_begins_and_ends_under_load_and_nothing_is_lost(self):
        with self.host() as host:
            host.call("bdev_malloc_create", name="m0", num_blocks=SIZE // 512, block_size=512)
            host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="m0")
            with FrontEnd(f"{host.folder}/disk.sock", protocol=P_LOG_SHMFD) as disk:
                disk.connect()
                load, log = Load(disk, 11), DirtyLog(disk)
                for slot in range(disk.slots):
                    load.submit(slot)
                for _ in range(20):
                    for change in (log.begin, log.end):
                        for _ in range(50):
                            load.submit(load.finish())
                        change()
                while load.busy:
                    load.finish()
                load.check_all()


class Restart(VhostTest):
    def serve(self, host, packed):
        host.call("bdev_aio_create", name="a0", filename=f"{host.folder}/disk", block_size=512)
        host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="a0", packed_ring=packed)

    def executed(self, host):
        """The number of reads and writes that the bdev has begun or completed."""
        stat = host.call("bdev_get_iostat", name="a0")["bdevs"][0]
        return stat["num_read_ops"] + stat["num_write_ops"]

    def kill_under_load(self, packed):
        with self.host() as host, FrontEnd(f"{host.folder}/disk.sock", packed=packed) as disk:
            with open(f"{host.folder}/disk", "wb") as file:
                file.truncate(SIZE)
            self.serve(host, packed)
            disk.connect()
            load = Load(disk, seed=KILLS)
            idle = list(range(disk.slots))
            hits = 0
            # A kill that comes after the last completion hits nothing and does not count.
            for _ in range(10 * KILLS):
                for _ in range(load.random.randrange(200, 1000)):
                    while idle:
                        load.submit(idle.pop())
                    idle.append(load.finish())
                while idle:
                    load.submit(idle.pop())
                host.kill()
                disk.disconnect()
                while disk.rings[0].has_ended():
                    idle.append(load.finish())
                left = len(load.busy)
                hits += left > 0

                host.start()
                self.serve(host, packed)
                disk.connect()
                while load.busy:
                    idle.append(load.finish())
                self.assertEqual(self.executed(host), left, "the device must not repeat completed requests")
                if hits == KILLS:
                    break
            self.assertEqual(hits, KILLS, "too few kills hit requests in flight")
            load.check_all()

    def test_a_killed_host_goes_on_with_what_is_in_flight_on_split_rings_and_repeats_nothing(self):
        self.kill_under_load(packed=False)

    def test_a_killed_host_goes_on_with_what_is_in_flight_on_packed_rings_and_repeats_nothing(self):
        self.kill_under_load(packed=True)

    def test_rings_that_stop_in_order_go_on_where_they_stopped(self):
        for packed in (False, True):
            with self.subTest(packed=packed), self.host() as host, \
                    FrontEnd(f"{host.folder}/disk.sock", packed=packed) as disk:
                host.call("bdev_malloc_create", name="m0", num_blocks=SIZE // 512, block_size=512)
                host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="m0", packed_ring=packed)
                disk.connect()
                load = Load(disk, seed=1)
                for round in range(20):
                    for slot in range(disk.slots):
                        load.submit(slot)
                    if round % 2:
                        disk.rings[0].start(disk.rings[0].stop())
                    else:
                        disk.share_memory()
                    while load.busy:
                        load.finish()
                load.check_all()


class Resize(VhostTest):
    def test_a_vmm_learns_a_new_size_and_its_guest_can_use_it(self):
        with self.host() as host, FrontEnd(f"{host.folder}/disk.sock", protocol=P_BACKEND_REQ) as disk:
            host.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
            host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="n0")
            disk.connect()
            ours, theirs = socket.socketpair()
            with ours, theirs:
                disk.tell(SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
                self.assertEqual(disk.run(READ, 2048, length=BLOCK)[0], IOERR)
                host.call("bdev_null_resize", name="n0", new_size=4)
                ours.settimeout(30)
                self.assertEqual(ours.recv(12), struct.pack("<III", 2, 1, 0))
                self.assertEqual(disk.capacity(), 8192)
                self.assertEqual(disk.run(READ, 2048, length=BLOCK)[0], OK)
                # A front end that does not read its messages does not disturb the host.
                for size in range(5, 40):
                    host.call("bdev_null_resize", name="n0", new_size=size)
                self.assertEqual(disk.capacity(), 39 * 2048)


class BadFrontEnds(VhostTest):
    """Whatever a front end does, the host survives and serves the next one."""

    def serve(self, host):
        host.call("bdev_malloc_create", name="m0", num_blocks=SIZE // 512, block_size=512)
        host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="m0")
        return f"{host.folder}/disk.sock"

    def lowest_free(self, host):
        """The lowest free descriptor of a host, after it has closed the connections of earlier calls."""
        seen = []
        while len(seen) < 10 or any(one != seen[-1] for one in seen[-10:]):
            seen.append({int(fd) for fd in os.listdir(f"/proc/{host.process.pid}/fd")})
            time.sleep(0.05)
        return next(fd for fd in range(len(seen[-1]) + 1) if fd not in seen[-1])

    def check(self, path):
        """Checks that the host serves a front end that keeps the rules."""
        with FrontEnd(path) as disk:
            disk.connect()
            self.assertEqual(disk.run(WRITE, 8, b"x" * BLOCK)[0], OK)
            self.assertEqual(disk.run(READ, 8, length=BLOCK), (OK, b"x" * BLOCK))

    def test_a_file_that_is_no_socket_is_not_replaced(self):
        with self.host() as host:
            host.call("bdev_malloc_create", name="m0", num_blocks=SIZE // 512, block_size=512)
            path = f"{host.folder}/disk.sock"
            with open(path, "w") as file:
                file.write("kept")
            error = host.refused("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="m0")
            self.assertEqual(error.code, -32602)
            self.assertIn("not a socket", error.message)
            with open(path) as file:
                self.assertEqual(file.read(), "kept")
            os.unlink(path)
            # The refused call has closed the bdev.
            host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="m0")

    def test_one_that_dies_after_any_message_leaves_nothing_behind(self):
        with self.host() as host:
            path = self.serve(host)
            messages = 1
            while True:
                with FrontEnd(path) as disk:
                    left = [messages]

                    def send(request, payload=b"", fds=(), needs_reply=False, send=disk.send):
                        left[0] -= 1
                        if left[0] < 0:
                            raise Closed
                        send(request, payload, fds, needs_reply)

                    disk.send = send
                    try:
                        disk.connect()
                        break
                    except Closed:
                        # Then send a part of another message.
                        disk.socket.sendall(struct.pack("<III", 5, 1, 40)[:messages % 13])
                messages += 1
            self.assertGreater(messages, 12)
            self.check(path)

    def test_memory_that_vanishes_does_not_take_the_host_along(self):
        with self.host() as host, FrontEnd(self.serve(host)) as disk:
            disk.connect()
            with VanishingMemory(disk) as memory:
                place = memory.offset + BLOCK
                for kind, flags in ((READ, WRITABLE), (WRITE, 0)):
                    memory.truncate()
                    slot = disk.place(1)
                    disk.memory[slot:slot + 17] = struct.pack("<IIQB", kind, 0, 64, 0xff)
                    disk.rings[0].offer(1, [(slot, 16, 0), (place, BLOCK, flags), (slot + 16, 1, WRITABLE)])
                    self.assertEqual(disk.wait()[0], 1)
                    memory.grow()
            self.check(disk.path)

    def test_one_that_ends_while_one_of_its_rings_stops_ends_with_all_of_them(self):
        with self.host() as host:
            path = f"{host.folder}/disk.sock"
            with open(f"{host.folder}/disk", "wb") as file:
                file.truncate(SIZE)
            host.call("bdev_aio_create", name="a0", filename=f"{host.folder}/disk", block_size=512)
            host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="a0")
            for _ in range(20):
                with FrontEnd(path, queues=3) as disk:
                    disk.connect()
                    for ring in range(3):
                        for slot in range(disk.slots):
                            disk.submit(slot, READ, slot * 128, length=65536, ring=ring)
                    disk.send(GET_VRING_BASE, struct.pack("<II", 1, 0))
            self.check(path)
            # Now nothing uses the bdev any more.
            host.call("vhost_delete_controller", ctrlr="disk.sock")
            host.call("bdev_aio_delete", name="a0")

    def test_one_that_comes_while_descriptors_have_run_out_waits_and_the_host_does_not_spin(self):
        def processor_seconds(host):
            with open(f"/proc/{host.process.pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        with self.host() as host:
            path, told = self.serve(host), "no VMM can be accepted"
            soft, hard = resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE, (self.lowest_free(host), hard))
            with FrontEnd(path) as disk:
                disk.open()
                end = time.monotonic() + 20
                while told not in host.log(1000):
                    self.assertLess(time.monotonic(), end, "the log does not report it")
                begin = processor_seconds(host)
                time.sleep(2)
                self.assertLess(processor_seconds(host) - begin, 1, "it spins")
                self.assertEqual(host.log(1000).count(told), 1)
                resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
                disk.agree()
            self.check(path)

    def test_messages_of_any_kind_in_any_order_end_at_most_the_session(self):
        rng = random.Random(19)
        with self.host() as host:
            path = self.serve(host)
            for number in range(150):
                with FrontEnd(path, tracked=number % 2 == 0) as disk:
                    # Prepares only a part of the session: from a bare connection to a running ring.
                    prepare = [disk.open, disk.agree, disk.share_memory, disk.rings[0].start][:number % 4 + 1]
                    for step in prepare:
                        step()
                    with contextlib.suppress(Closed):
                        for _ in range(rng.randrange(1, 12)):
                            request = rng.randrange(0, 44)
                            words = [rng.choice((0, 1, 2, 64, GUEST, USER, USER + disk.length, 1 << 63, (1 << 64) - 1))
                                     for _ in range(rng.choice((0, 1, 2, 5, 6)))]
                            fds = [disk.fd] * rng.choice((0, 0, 1, 2))
                            disk.send(request, b"".join(struct.pack("<Q", word) for word in words), fds)
            self.check(path)


class VanishingMemory:
    """A second part of a front end's memory. The front end takes its pages away."""

    LENGTH = 1 << 20

    def __init__(self, disk):
        self.fd = os.memfd_create("vanishing")
        self.grow()
        # It lies behind the first part, in offsets from the guest's first address.
        self.offset = disk.length
        region = struct.pack("<QQQQ", GUEST + self.offset, self.LENGTH, USER + self.offset, 0)
        disk.tell(SET_MEM_TABLE, struct.pack("<II", 2, 0) + disk.region() + region, [disk.fd, self.fd])

    def grow(self):
        os.ftruncate(self.fd, self.LENGTH)

    def truncate(self):
        os.ftruncate(self.fd, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
