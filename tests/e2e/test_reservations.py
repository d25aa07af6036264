"""Reservations: they outlast the process when an initiator asks for it, and nobody gets around them by another protocol."""

import os
import unittest

from host import Host, free_port
from iscsi_client import (
    EXCLUSIVE_ACCESS, REGISTER, RESERVE, CheckCondition, ReservationConflict, Session, can_persist, reservation_keys,
    reserve_out,
)
from test_exports import NQN, TARGET

SIZE = 1 << 20
SECOND = "iqn.2001-04.com.example:host2"


class Scsi(unittest.TestCase):
    def serve(self, host, **lun):
        """A target over a file, as the configuration of a host that starts again would make it."""
        path, port = f"{host.folder}/disk", free_port()
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.truncate(SIZE)
        host.call("bdev_aio_create", name="a0", filename=path, block_size=512, uuid="c1b9e3a4-0d1f-4a2b-8c3d-5e6f708192a3")
        host.call("iscsi_create_portal_group", tag=1, portals=[{"host": "127.0.0.1", "port": str(port)}])
        host.call("iscsi_create_initiator_group", tag=2, initiators=["ANY"], netmasks=["127.0.0.0/8"])
        luns = [{"bdev_name": "a0", "lun_id": 0, **lun}]
        host.call("iscsi_create_target_node", name="disk1", alias_name="", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 2}],
                  queue_depth=64, luns=luns)
        return port

    def test_a_reservation_outlasts_a_kill_when_its_registration_asked_for_that(self):
        for aptpl in (True, False):
            with self.subTest(aptpl=aptpl), Host() as host:
                kept = {"ptpl_file": f"{host.folder}/kept"}
                holder = Session(self.serve(host, **kept), TARGET)
                self.assertTrue(can_persist(holder))
                reserve_out(holder, REGISTER, new_key=0xABC, aptpl=aptpl)
                reserve_out(holder, RESERVE, key=0xABC, kind=EXCLUSIVE_ACCESS)
                holder.write_all(0, b"x" * 512)
                host.kill()
                host.start()
                port = self.serve(host, **kept)
                other = Session(port, TARGET, initiator=SECOND, isid=2)
                self.assertEqual(reservation_keys(other), [0xABC] if aptpl else [])
                if aptpl:
                    with self.assertRaises(ReservationConflict):
                        other.read_all(0, 512)
                else:
                    other.read_all(0, 512)
                holder = Session(port, TARGET)
                self.assertEqual(holder.read_all(0, 512), b"x" * 512)
                if aptpl:
                    reserve_out(holder, REGISTER, key=0xABC, new_key=0)
                    host.kill()
                    host.start()
                    self.assertEqual(reservation_keys(Session(self.serve(host, **kept), TARGET)), [])

    def test_without_a_file_nothing_is_promised(self):
        with Host() as host:
            session = Session(self.serve(host), TARGET)
            self.assertFalse(can_persist(session))
            with self.assertRaises(CheckCondition) as told:
                reserve_out(session, REGISTER, new_key=1, aptpl=True)
            self.assertEqual(told.exception.sense, (5, 0x26, 0))  # invalid field in the parameter list

    def test_a_file_that_cannot_be_written_fails_the_command_and_one_of_another_disk_is_refused(self):
        with Host() as host:
            path = f"{host.folder}/nowhere/kept"
            session = Session(self.serve(host, ptpl_file=path), TARGET)
            with self.assertRaises(CheckCondition) as told:
                reserve_out(session, REGISTER, new_key=1, aptpl=True)
            self.assertEqual(told.exception.sense[0], 4)  # hardware error
            self.assertEqual(reservation_keys(session), [])
            with open(f"{host.folder}/other", "w") as file:
                file.write('{"bdev_uuid":"00000000-0000-0000-0000-000000000001","registrants":[]}')
            host.call("bdev_null_create", name="n0", num_blocks=64, block_size=512)
            error = host.refused("iscsi_target_node_add_lun", name=TARGET, bdev_name="n0", ptpl_file=f"{host.folder}/other")
            self.assertIn("another bdev", error.message)

    def test_a_disk_with_a_registered_initiator_has_no_other_exports(self):
        with Host() as host:
            session = Session(self.serve(host), TARGET)
            host.export("a0", NQN)
            with self.assertRaises(ReservationConflict):
                reserve_out(session, REGISTER, new_key=1)
            self.assertEqual(reservation_keys(session), [])
            host.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
            reserve_out(session, REGISTER, new_key=1)
            error = host.refused("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "a0"})
            self.assertIn("in use", error.message)
            reserve_out(session, REGISTER, key=1, new_key=0)
            host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "a0"})


if __name__ == "__main__":
    unittest.main()
