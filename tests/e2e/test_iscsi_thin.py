"""Thin provisioned units: what the target reports of the pool behind a logical volume, and when it warns."""

import struct
import unittest

from host import Host
from iscsi_client import (
    INQUIRY,
    LOG_SENSE,
    MODE_SELECT,
    READ_CAPACITY_16,
    SERVICE_ACTION_IN,
    CheckCondition,
    Session,
)
from test_exports import serve_iscsi
from test_iscsi import TARGET
from test_nvme import wait

MIB = 1 << 20
SOFT_THRESHOLD_REACHED = (6, 0x38, 7)
SPACE_ALLOCATION_FAILED = (7, 0x27, 7)


def page(session, code):
    return session.command(struct.pack(">BBBHx", INQUIRY, 1, code, 64), wanted=64)


def reads_zeros(session):
    """LBPRZ of READ CAPACITY (16), and of the Logical Block Provisioning page."""
    cdb = struct.pack(">BBQI", SERVICE_ACTION_IN, READ_CAPACITY_16, 0, 32)
    return bool(session.command(cdb, wanted=32)[14] & 0x40), bool(page(session, 0xB2)[5] & 0x04)


def resources(session):
    """Bytes that are available and used, as the log page counts them."""
    log = session.command(struct.pack(">BxBxxHHx", LOG_SENSE, 0x40 | 0x0C, 0, 64), wanted=64)
    size = 512 << page(session, 0xB2)[4]
    return {code: count * size for code, count in struct.iter_unpack(">HxxIxxxx", log[4:28])}


def set_threshold(session, available):
    """Asks for a warning when not more than `available` bytes are left."""
    count = available // (512 << page(session, 0xB2)[4])
    list_ = bytes(4) + bytes([0x01, 10, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0])
    list_ += bytes([0x5C, 0x02, 0, 20]) + bytes(12) + struct.pack(">BBxxI", 0x80, 0x01, count)
    session.command(bytes([MODE_SELECT, 0x10, 0, 0, len(list_), 0]), data=list_)


class Thin(unittest.TestCase):
    def serve(self, host, thin):
        """A volume of 40 MiB in a store of 32 MiB with clusters of 1 MiB. Returns its session and its store's free clusters."""
        host.call("bdev_malloc_create", name="m0", num_blocks=32 * MIB // 512, block_size=512)
        host.call("bdev_lvol_create_lvstore", bdev_name="m0", lvs_name="s0", cluster_sz=MIB)
        size = 40 if thin else 16
        host.call("bdev_lvol_create", lvs_name="s0", lvol_name="v", size_in_mib=size, thin_provision=thin)
        free = lambda: host.call("bdev_lvol_get_lvstores")[0]["free_clusters"]
        return Session(serve_iscsi(host, "s0/v"), TARGET), free

    def test_a_full_pool_is_announced_once_before_writes_fail(self):
        with Host() as host:
            session, free = self.serve(host, thin=True)
            self.assertEqual(reads_zeros(session), (True, True))
            clusters = free()
            self.assertEqual(resources(session)[1], clusters * MIB)
            set_threshold(session, available=5 * MIB)
            for number in range(clusters - 6):
                session.write_all(number * 2048, b"\x5a" * 512)
            wait(lambda: resources(session)[1] == 6 * MIB)
            session.write_all((clusters - 6) * 2048, b"\x5a" * 512)

            def warned():
                try:
                    session.test_unit_ready()
                except CheckCondition as condition:
                    return condition.sense
            self.assertEqual(wait(warned), SOFT_THRESHOLD_REACHED)
            self.assertEqual(resources(session)[1], free() * MIB)
            for number in range(clusters - 5, clusters):
                session.write_all(number * 2048, b"\x5a" * 512)
            with self.assertRaises(CheckCondition) as caught:
                session.write_all(clusters * 2048, b"\x5a" * 512)
            self.assertEqual(caught.exception.sense, SPACE_ALLOCATION_FAILED)

            # Unmapped clusters go back to the pool, and read zeros.
            blocks = struct.pack(">HHIQII", 22, 16, 0, 0, 10 * 2048, 0)
            session.command(struct.pack(">BxxxxxxHx", 0x42, len(blocks)), data=blocks)
            wait(lambda: resources(session)[1] == 10 * MIB)
            self.assertEqual(session.read_all(0, 512), bytes(512))
            session.close()

    def test_a_thick_volume_has_no_pool_to_report(self):
        with Host() as host:
            session, _ = self.serve(host, thin=False)
            self.assertEqual(page(session, 0xB2)[4], 0, "THRESHOLD EXPONENT")
            with self.assertRaises(CheckCondition) as caught:
                session.command(struct.pack(">BxBxxHHx", LOG_SENSE, 0x40 | 0x0C, 0, 64), wanted=64)
            self.assertEqual(caught.exception.sense, (5, 0x24, 0))
            session.close()

    def test_a_disk_that_keeps_no_data_promises_no_zeros(self):
        with Host() as host:
            host.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
            session = Session(serve_iscsi(host, "n0"), TARGET)
            self.assertEqual(reads_zeros(session), (False, False))
            session.close()


if __name__ == "__main__":
    unittest.main()
