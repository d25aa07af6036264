"""Reservations: they outlast the process if an initiator asks for it, and no other protocol can get around them."""

import base64
import json
import os
import struct
import unittest

from host import Host, free_port
from iscsi_client import (
    EXCLUSIVE_ACCESS, REGISTER, RESERVE, CheckCondition, ReservationConflict, Session, can_persist, reservation_keys,
    reserve_out,
)
from test_exports import NQN, TARGET
from test_nvme import wait, where

UUID = "c1b9e3a4-0d1f-4a2b-8c3d-5e6f708192a3"
SIZE = 1 << 20
SECOND = "iqn.2001-04.com.example:host2"


class Scsi(unittest.TestCase):
    def serve(self, host, **lun):
        """Creates a target with a file as its disk, as the saved configuration does after a restart. Returns its port."""
        path, port = f"{host.folder}/disk", free_port()
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.truncate(SIZE)
        host.call("bdev_aio_create", name="a0", filename=path, block_size=512, uuid=UUID)
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


# NVMe opcodes, actions and types.
WRITE, READ, REGISTER_KEY, REPORT, ACQUIRE, RELEASE_KEY, GET_FEATURES = 1, 2, 0x0D, 0x0E, 0x11, 0x15, 0x0A
PREEMPT, PREEMPT_AND_ABORT, CLEAR_ALL, PERSIST = 1, 2, 1, 3 << 30
WRITE_EXCLUSIVE_TYPE, EXCLUSIVE_ACCESS_TYPE = 1 << 8, 2 << 8
SUCCESS, INVALID_FIELD, CONFLICT = 0, 0x02, 0x83


class Initiator:
    """An NVMe host with its own name, connected to the subsystem. It can send any command."""

    def __init__(self, host, port, number):
        self.host = host
        limits = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1}
        host.call("bdev_nvme_attach_controller", hostnqn=f"nqn.2026-01.io.drivebay:host{number}", **where(port, **limits))

    def send(self, opcode, cdw10=0, cdw11=0, keys=None, data=b"", want=0, queue="io"):
        """Sends a command to namespace 1. Returns its status and data."""
        if keys is not None:
            data = struct.pack("<QQ", *keys)
        command = struct.pack("<BBHI32xIIIIII", opcode, 0, 0, 1, cdw10, cdw11, 0, 0, 0, 0)
        direction = {"data_direction": "c2h", "data_len": want}
        if data:
            direction = {"data_direction": "h2c", "data": base64.urlsafe_b64encode(data).decode()}
        answer = self.host.call("bdev_nvme_send_cmd", name="Nvme0", cmd_type=queue,
                                cmdbuf=base64.urlsafe_b64encode(command).decode(), **direction)
        status = struct.unpack_from("<H", base64.urlsafe_b64decode(answer["cpl"]), 14)[0]
        return status >> 1 & 0x7FF, base64.urlsafe_b64decode(answer.get("data") or "")

    def read(self):
        return self.send(READ, want=512)[0]

    def write(self):
        return self.send(WRITE, data=b"w" * 512)[0]

    def registrants(self):
        """Returns the type of the reservation, and (key, holds) of each registrant."""
        _, data = self.send(REPORT, cdw10=1023, cdw11=1, want=4096)
        count = struct.unpack_from("<H", data, 5)[0]
        entries = [data[at:at + 64] for at in range(64, 64 + 64 * count, 64)]
        return data[4], sorted((struct.unpack_from("<Q", one, 8)[0], one[2]) for one in entries)


class Nvme(unittest.TestCase):
    def serve(self, host, port=None, **namespace):
        path = f"{host.folder}/disk"
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.truncate(SIZE)
        host.call("bdev_aio_create", name="a0", filename=path, block_size=512, uuid=UUID)
        port = port or free_port()
        host.call("nvmf_create_transport", trtype="TCP")
        host.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="TEST")
        host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "a0", **namespace})
        listen = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=listen)
        return port

    def test_hosts_register_acquire_and_preempt_and_a_kill_changes_nothing(self):
        with Host() as target, Host() as one, Host() as two:
            kept = {"ptpl_file": f"{target.folder}/kept"}
            port = self.serve(target, **kept)
            a, b = Initiator(one, port, 1), Initiator(two, port, 2)
            self.assertEqual(a.send(REGISTER_KEY, PERSIST, keys=(0, 1))[0], SUCCESS)
            self.assertEqual(a.send(GET_FEATURES, 0x83, queue="admin")[0], SUCCESS)
            self.assertEqual(a.send(ACQUIRE, EXCLUSIVE_ACCESS_TYPE, keys=(1, 0))[0], SUCCESS)
            self.assertEqual([a.write(), a.read(), b.write(), b.read()], [SUCCESS, SUCCESS, CONFLICT, CONFLICT])
            self.assertEqual(b.registrants(), (2, [(1, 1)]))

            self.assertEqual(b.send(ACQUIRE, WRITE_EXCLUSIVE_TYPE | PREEMPT, keys=(0, 1))[0], CONFLICT)
            self.assertEqual(b.send(REGISTER_KEY, keys=(0, 2))[0], SUCCESS)
            self.assertEqual(b.send(ACQUIRE, WRITE_EXCLUSIVE_TYPE | PREEMPT_AND_ABORT, keys=(2, 1))[0], SUCCESS)
            self.assertEqual([a.write(), a.read(), b.write(), b.read()], [CONFLICT, SUCCESS, SUCCESS, SUCCESS])

            target.kill()
            with open(kept["ptpl_file"]) as file:
                stored = json.load(file)
            self.assertEqual((stored["ptpl"], stored["rtype"], stored["crkey"], stored["bdev_uuid"]), (True, 1, 2, UUID))
            target.start()
            self.serve(target, port, **kept)
            for host in (one, two):
                wait(lambda: host.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]["state"] == "enabled")
            self.assertEqual(a.registrants(), (1, [(2, 1)]))
            self.assertEqual([a.write(), a.read(), b.write()], [CONFLICT, SUCCESS, SUCCESS])

            self.assertEqual(b.send(RELEASE_KEY, CLEAR_ALL, keys=(2, 0))[0], SUCCESS)
            self.assertEqual([a.write(), a.registrants()], [SUCCESS, (0, [])])

    def test_without_a_file_nothing_is_promised_and_a_reserved_disk_has_no_other_exports(self):
        with Host() as target, Host() as one:
            a = Initiator(one, self.serve(target), 1)
            self.assertEqual(a.send(REGISTER_KEY, PERSIST, keys=(0, 1))[0], INVALID_FIELD)
            lun = {"bdev_name": "a0", "lun_id": 0}
            target.call("iscsi_create_portal_group", tag=1, portals=[{"host": "127.0.0.1", "port": str(free_port())}])
            target.call("iscsi_create_initiator_group", tag=2, initiators=["ANY"], netmasks=["ANY"])
            node = {"name": "disk1", "alias_name": "", "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}], "queue_depth": 64,
                    "luns": [lun]}
            target.call("iscsi_create_target_node", **node)
            self.assertEqual(a.send(REGISTER_KEY, keys=(0, 1))[0], CONFLICT)
            target.call("iscsi_delete_target_node", name=TARGET)
            self.assertEqual(a.send(REGISTER_KEY, keys=(0, 1))[0], SUCCESS)
            self.assertIn("in use", target.refused("iscsi_create_target_node", **node).message)


if __name__ == "__main__":
    unittest.main()
