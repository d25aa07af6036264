"""vhost-user-scsi, tested by a front end without a virtual machine, and its methods, called by PyPI's client."""

import os
import struct
import time
import unittest

from host import Host
from spdk_client import Client, Refused
from vhost_client import (ABORTED, ABORT_TASK, BAD_TARGET, CLEAR_ACA, CONTROL, EVENTS, INCORRECT_LUN, OVERRUN, PARTS,
                          QUERY_TASK, REJECTED, REQUESTS, SCSI_OK, UNIT_RESET, WRITABLE, ScsiFrontEnd)

BLOCKS = 32768
TEST_UNIT_READY, INQUIRY, READ_CAPACITY, READ, WRITE, WRITE_VERIFY = 0x00, 0x12, 0x25, 0x28, 0x2a, 0x2e
GOOD, CHECK = 0, 2
FAILURE = 9
# Events and reasons.
RESET, CHANGED, RESCAN, REMOVED, CAPACITY = 1, 3, 1, 2, 0x092a


def rw(op, lba, blocks):
    return struct.pack(">BBIBHB", op, 0, lba, 0, blocks, 0)


class ScsiTest(unittest.TestCase):
    def host(self):
        host = Host()
        host.flags = ("-S", host.folder)
        return host

    def serve(self, host, targets=1):
        """A controller with targets over RAM disks m0, m1, ..."""
        host.call("vhost_create_scsi_controller", ctrlr="scsi.sock")
        for number in range(targets):
            host.call("bdev_malloc_create", name=f"m{number}", num_blocks=BLOCKS, block_size=512)
            added = host.call("vhost_scsi_controller_add_target", ctrlr="scsi.sock", scsi_target_num=number,
                              bdev_name=f"m{number}")
            self.assertEqual(added, number)
        return ScsiFrontEnd(f"{host.folder}/scsi.sock")


class Commands(ScsiTest):
    def test_a_target_is_found_written_read_and_compared(self):
        with self.host() as host, self.serve(host) as scsi:
            scsi.connect()
            # The device is new to this nexus, so it has no unit attention to report.
            self.assertEqual(scsi.execute([TEST_UNIT_READY])[:2], [SCSI_OK, GOOD])
            response, status, residual, _, data = scsi.execute([INQUIRY, 0, 0, 0, 96, 0], length=96)
            self.assertEqual((response, status, data[8:16], data[16:18]), (SCSI_OK, GOOD, b"Drivebay", b"m0"))
            self.assertEqual(residual, 96 - (data[4] + 5))
            data = scsi.execute([READ_CAPACITY] + [0] * 9, length=8)[4]
            self.assertEqual(struct.unpack(">II", data), (BLOCKS - 1, 512))
            content = bytes(range(256)) * 256
            for op in (WRITE, WRITE_VERIFY):
                content = content[1:] + content[:1]
                self.assertEqual(scsi.execute(rw(op, 100, 128), data=content)[:3], [SCSI_OK, GOOD, 0])
                self.assertEqual(scsi.execute(rw(READ, 100, 128), length=len(content))[4], content)

    def test_what_cannot_be_is_refused_and_other_commands_go_on(self):
        with self.host() as host, self.serve(host) as scsi:
            scsi.connect()
            ready = [TEST_UNIT_READY]
            self.assertEqual(scsi.execute(ready, target=3)[0], BAD_TARGET)
            response, status, _, sense, _ = scsi.execute(ready, lun=5)
            self.assertEqual((response, status, sense[2] & 15, sense[12]), (SCSI_OK, CHECK, 5, 0x25))
            response, status, _, sense, _ = scsi.execute(rw(READ, BLOCKS, 1), length=512)
            self.assertEqual((response, status, sense[2] & 15, sense[12]), (SCSI_OK, CHECK, 5, 0x21))
            # The buffer is shorter than the command's data. The device reads only what fits.
            response, status, _, _, _ = scsi.execute(rw(READ, 0, 8), length=512)
            self.assertIn((response, status), [(SCSI_OK, GOOD), (OVERRUN, CHECK)])
            # A header that is cut off, then a chain without room for a response.
            place = scsi.place(1, REQUESTS)
            scsi.rings[REQUESTS].offer(1, [(place, 20, 0), (place + 0x100, 108, WRITABLE)])
            self.assertEqual(scsi.wait(REQUESTS)[0], 1)
            scsi.rings[REQUESTS].offer(1, [(place, 51, 0), (place + 0x100, 20, WRITABLE)])
            self.assertEqual(scsi.wait(REQUESTS)[0], 1)
            self.assertEqual(scsi.execute(ready)[:2], [SCSI_OK, GOOD])

    def test_reservations_are_refused_since_they_would_not_bind_other_guests(self):
        with self.host() as host, self.serve(host) as scsi:
            scsi.connect()
            register, read_keys, reserve = [0x5f] + [0] * 7 + [24, 0], [0x5e] + [0] * 7 + [8, 0], [0x16] + [0] * 5
            for cdb, data, length in ((register, bytes(24), 0), (read_keys, b"", 8), (reserve, b"", 0)):
                response, status, _, sense, _ = scsi.execute(cdb, data, length)
                self.assertEqual((response, status, sense[2] & 15, sense[12]), (SCSI_OK, CHECK, 5, 0x20))

    def test_functions_are_answered_when_their_commands_have_ended(self):
        with self.host() as host, self.serve(host) as scsi:
            scsi.connect()
            self.assertEqual(scsi.manage(QUERY_TASK, tag=7), SCSI_OK)
            self.assertEqual(scsi.manage(CLEAR_ACA), REJECTED)
            self.assertEqual(scsi.manage(UNIT_RESET, target=4), BAD_TARGET)
            self.assertEqual(scsi.manage(UNIT_RESET, lun=4), INCORRECT_LUN)
            for slot in range(16):
                scsi.command(slot, rw(READ, slot * 128, 128), length=65536, tag=slot)
            self.assertEqual(scsi.manage(ABORT_TASK, tag=3), SCSI_OK)
            self.assertEqual(scsi.manage(UNIT_RESET), SCSI_OK)
            for _ in range(16):
                self.assertTrue(scsi.rings[REQUESTS].has_ended(), "a command outlived the reset")
                self.assertIn(scsi.ended()[1], (SCSI_OK, ABORTED))
            place = scsi.place(1, CONTROL)
            scsi.rings[CONTROL].offer(1, [(place, 4, 0), (place + 32, 8, WRITABLE)])
            self.assertEqual(scsi.wait(CONTROL)[0], 1)

    def test_a_function_fails_when_its_command_hangs_at_the_bdev(self):
        with self.host() as host:
            host.call("bdev_malloc_create", name="m0", num_blocks=BLOCKS, block_size=512)
            host.call("bdev_error_create", base_name="m0")
            host.call("vhost_create_scsi_controller", ctrlr="scsi.sock")
            host.call("vhost_scsi_controller_add_target", ctrlr="scsi.sock", scsi_target_num=0, bdev_name="EE_m0")
            with ScsiFrontEnd(f"{host.folder}/scsi.sock") as scsi:
                scsi.connect()
                host.call("bdev_error_inject_error", name="EE_m0", io_type="read", error_type="pending", num=1)
                scsi.command(0, rw(READ, 0, 8), length=4096, tag=1)
                in_flight = lambda: host.call("vhost_get_controllers")[0]["sessions"][0]["inflight_task_cnt"]
                while not in_flight():
                    time.sleep(0.02)
                self.assertEqual(scsi.manage(UNIT_RESET), FAILURE)
                host.call("bdev_error_resume_pending", name="EE_m0")
                self.assertIn(scsi.ended()[1], (SCSI_OK, ABORTED))


class Hotplug(ScsiTest):
    def test_targets_come_grow_and_go_under_load_and_the_driver_learns_it(self):
        with self.host() as host, self.serve(host, targets=2) as scsi:
            scsi.connect()
            scsi.give_event_buffers()
            host.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
            added = host.call("vhost_scsi_controller_add_target", ctrlr="scsi.sock", scsi_target_num=-1, bdev_name="n0")
            self.assertEqual((added, scsi.event()), (2, (RESET, 2, RESCAN)))
            self.assertEqual(scsi.execute([TEST_UNIT_READY], target=2)[:2], [SCSI_OK, GOOD])
            host.call("bdev_null_resize", name="n0", new_size=4)
            self.assertEqual(scsi.event(), (CHANGED, 2, CAPACITY))
            response, status, _, sense, _ = scsi.execute([TEST_UNIT_READY], target=2)
            self.assertEqual((response, status, sense[2] & 15, sense[12:14]), (SCSI_OK, CHECK, 6, b"\x2a\x09"))
            data = scsi.execute([READ_CAPACITY] + [0] * 9, length=8, target=2)[4]
            self.assertEqual(struct.unpack(">II", data)[0], 8191)

            for slot in range(16):
                scsi.command(slot, rw(READ, slot * 64, 64), length=32768, target=1)
            host.call("vhost_scsi_controller_remove_target", ctrlr="scsi.sock", scsi_target_num=1)
            self.assertEqual(scsi.event(), (RESET, 1, REMOVED))
            for _ in range(16):
                self.assertIn(scsi.ended()[1], (SCSI_OK, BAD_TARGET))
            self.assertEqual(scsi.execute([TEST_UNIT_READY], target=1)[0], BAD_TARGET)
            host.call("bdev_malloc_delete", name="m0")
            self.assertEqual(scsi.event(), (RESET, 0, REMOVED))
            self.assertEqual(scsi.execute([TEST_UNIT_READY])[0], BAD_TARGET)
            numbers = [target["scsi_dev_num"] for target in
                       host.call("vhost_get_controllers")[0]["backend_specific"]["scsi"]]
            self.assertEqual(numbers, [2])

    def test_an_event_buffer_that_a_dead_device_had_taken_comes_back_with_the_news_that_events_were_missed(self):
        with self.host() as host, self.serve(host) as scsi:
            scsi.connect()
            scsi.disconnect()
            scsi.give_event_buffers(1)
            # A device that dies with the first buffer leaves this: the ring's record says that the request is in
            # flight.
            part = -(-(16 + 16 * scsi.slots * PARTS) // 64) * 64
            os.pwrite(scsi.inflight[0], b"\1", EVENTS * part + 16)
            scsi.connect()
            slot = scsi.wait(EVENTS)[0]
            place = scsi.place(slot, EVENTS)
            self.assertEqual((slot, struct.unpack("<I", scsi.memory[place:place + 4])[0]), (0, 1 << 31))

    def test_a_driver_that_did_not_ask_gets_no_event(self):
        with self.host() as host, self.serve(host), ScsiFrontEnd(f"{host.folder}/scsi.sock", features=0) as scsi:
            scsi.connect()
            scsi.give_event_buffers()
            host.call("vhost_scsi_controller_remove_target", ctrlr="scsi.sock", scsi_target_num=0)
            self.assertEqual(scsi.execute([TEST_UNIT_READY])[0], BAD_TARGET)
            self.assertFalse(scsi.rings[1].has_ended())


class EveryMethod(ScsiTest):
    def test_the_reference_client_makes_changes_lists_and_deletes_controllers(self):
        with self.host() as host, Client(host.socket) as client:
            call = client.call
            for name in ("m0", "m1", "m2"):
                call(f"bdev_malloc_create -b {name} 16 512")
            call("vhost_create_scsi_controller s.sock --cpumask 0x1 --delay")
            with self.assertRaisesRegex(Refused, "File exists"):
                call("vhost_create_scsi_controller s.sock")
            self.assertEqual(call("vhost_scsi_controller_add_target s.sock 0 m0"), 0)
            self.assertEqual(call("vhost_scsi_controller_add_target s.sock -1 m1"), 1)
            with self.assertRaises(OSError):
                ScsiFrontEnd(f"{host.folder}/s.sock").open()
            call("vhost_start_scsi_controller s.sock")
            with self.assertRaisesRegex(Refused, "-32602"):
                call("vhost_scsi_controller_add_target s.sock 8 m2")
            call("vhost_create_blk_controller b.sock m2 --readonly --packed-ring --transport vhost_user_blk")
            call("vhost_controller_set_coalescing b.sock 100 5000")
            block, scsi = call("vhost_get_controllers")
            self.assertEqual((block["ctrlr"], block["delay_base_us"], block["iops_threshold"]), ("b.sock", 100, 5000))
            self.assertEqual(block["backend_specific"]["block"],
                             {"readonly": True, "bdev": "m2", "transport": "vhost_user_blk"})
            self.assertEqual(scsi["backend_specific"]["scsi"][1],
                             {"scsi_dev_num": 1, "id": 1, "target_name": "Target 1",
                              "luns": [{"id": 0, "bdev_name": "m1"}]})
            self.assertEqual(call("vhost_get_controllers -n s.sock"), [scsi])
            self.assertEqual(call("virtio_blk_get_transports"), [{"name": "vhost_user_blk"}])
            with self.assertRaisesRegex(Refused, "File exists"):
                call("virtio_blk_create_transport vhost_user_blk")
            call("vhost_scsi_controller_remove_target s.sock 1")

            refused = host.refused
            self.assertEqual(refused("vhost_scsi_controller_remove_target", ctrlr="s.sock", scsi_target_num=1).code, -32602)
            self.assertEqual(refused("vhost_scsi_controller_add_target", ctrlr="b.sock", scsi_target_num=0,
                                     bdev_name="m1").code, -32602)
            self.assertEqual(refused("vhost_get_controllers", name="none").code, -32603)
            self.assertEqual(refused("virtio_blk_create_transport", name="rdma").code, -2)
            self.assertEqual(refused("virtio_blk_get_transports", name="rdma").code, -19)

            saved = host.call("framework_get_config", name="vhost_scsi")
            self.assertEqual([call["method"] for call in saved],
                             ["vhost_create_scsi_controller", "vhost_scsi_controller_add_target",
                              "vhost_start_scsi_controller"])
            call("vhost_delete_controller s.sock")
            call("vhost_delete_controller b.sock")
            self.assertEqual(call("vhost_get_controllers"), [])
