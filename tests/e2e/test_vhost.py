"""vhost-user disks, as a front end without a virtual machine sees them."""

import os
import random
import unittest

from host import Host
from vhost_client import OK, READ, WRITE, FrontEnd

BLOCK = 4096
SECTORS = BLOCK // 512
SIZE = 16 << 20
# Kills of one run; more by `cargo xtask soak`.
KILLS = 50 if os.environ.get("DRIVEBAY_SOAK") else 5


class VhostTest(unittest.TestCase):
    def host(self):
        """A host whose sockets are in its own folder."""
        host = Host()
        host.flags = ("-S", host.folder)
        return host


class Load:
    """Verified reads and writes with as many requests in flight as the front end has slots. No two of them are for the
    same block, so what a block must hold is always known."""

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
        """Takes the end of one request: its slot."""
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


class Restart(VhostTest):
    def serve(self, host, packed):
        host.call("bdev_aio_create", name="a0", filename=f"{host.folder}/disk", block_size=512)
        host.call("vhost_create_blk_controller", ctrlr="disk.sock", dev_name="a0", packed_ring=packed)

    def executed(self, host):
        """Reads and writes that the bdev has begun or done."""
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
            for _ in range(KILLS):
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
                self.assertGreater(left, 0)

                host.start()
                self.serve(host, packed)
                disk.connect()
                while load.busy:
                    idle.append(load.finish())
                self.assertEqual(self.executed(host), left, "what was given back is not done again")
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
