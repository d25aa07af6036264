"""The methods of the NVMe plugin, called by PyPI's client."""

import base64
import os
import struct
import tempfile
import unittest

from host import Host, free_port
from spdk_client import Client, Refused
from test_nvme import NQN, export, where

IDENTIFY, WRITE, READ, KEEP_ALIVE = 0x06, 0x01, 0x02, 0x18


def command(opcode, nsid=0, **dwords):
    """A submission queue entry, base64-encoded for the client."""
    entry = [opcode, nsid] + [0] * 14
    for name, value in dwords.items():
        entry[int(name.removeprefix("dw"))] = value
    return encoded(struct.pack("<16I", *entry))


def encoded(data):
    return base64.urlsafe_b64encode(data).decode()


def status(answer):
    """Status code type and status code of a completion."""
    field = struct.unpack("<4I", base64.urlsafe_b64decode(answer["cpl"]))[3] >> 17
    return field >> 8 & 7, field & 0xFF


class Attached(unittest.TestCase):
    """A host whose Nvme0n1 is a namespace of the same host."""

    def setUp(self):
        self.host = self.enterContext(Host())
        self.port = free_port()
        export(self.host, self.port)
        self.host.call("bdev_nvme_attach_controller", **where(self.port))
        self.client = self.enterContext(Client(self.host.socket))

    def state(self):
        return self.host.call("bdev_nvme_get_controllers", name="Nvme0")[0]["ctrlrs"][0]["state"]

    def send(self, kind, direction, cmdbuf, more=""):
        return self.client.call(f"bdev_nvme_send_cmd -n Nvme0 -t {kind} -r {direction} -c {cmdbuf} {more}")

    def test_a_controller_is_disabled_and_enabled_again(self):
        self.client.call("bdev_nvme_disable_controller Nvme0")
        self.assertEqual(self.state(), "disabled")
        for method in ("disable", "reset"):
            self.assertEqual(self.host.refused(f"bdev_nvme_{method}_controller", name="Nvme0").code, -114)
        self.client.call("bdev_nvme_enable_controller Nvme0")
        self.assertEqual(self.state(), "enabled")
        self.assertEqual(self.host.refused("bdev_nvme_enable_controller", name="Nvme0").code, -114)
        self.client.call("bdev_nvme_reset_controller Nvme0")
        self.assertEqual(self.state(), "enabled")
        self.assertEqual(self.host.refused("bdev_nvme_disable_controller", name="Nvme9").code, -19)
        # A disabled controller can be detached.
        self.client.call("bdev_nvme_disable_controller Nvme0")
        self.client.call("bdev_nvme_detach_controller Nvme0")

    def test_the_health_log_is_shown_with_what_the_controller_is(self):
        health = self.client.call("bdev_nvme_get_controller_health_info -c Nvme0")
        self.assertEqual((health["serial_number"], health["traddr"]), ("TEST", "127.0.0.1"))
        self.assertIn("data_units_written", health)
        self.assertEqual(self.host.refused("bdev_nvme_get_controller_health_info", name="Nvme9").code, -32603)

    def test_any_command_is_sent_and_its_completion_answered(self):
        identify = self.send("admin", "c2h", command(IDENTIFY, dw10=1), "-D 4096")
        self.assertEqual(status(identify), (0, 0))
        data = base64.urlsafe_b64decode(identify["data"])
        self.assertEqual((len(data), data[4:8]), (4096, b"TEST"))

        block = os.urandom(512)
        written = self.send("io", "h2c", command(WRITE, 1, dw10=5), f"--data={encoded(block)}")
        self.assertEqual(status(written), (0, 0))
        read = self.send("io", "c2h", command(READ, 1, dw10=5), "-D 512")
        self.assertEqual(base64.urlsafe_b64decode(read["data"]), block)
        # A failed command has an answer, too. This one reads a block past the end.
        self.assertEqual(status(self.send("io", "c2h", command(READ, 1, dw10=1 << 20), "-D 512")), (0, 0x80))
        self.assertEqual(status(self.send("admin", "h2c", command(KEEP_ALIVE))), (0, 0))
        with self.assertRaises(Refused):
            self.send("admin", "h2c", "AAAA")
        # The plugin refuses a direction that contradicts the opcode, because the target's answer
        # would break the protocol.
        error = self.host.refused("bdev_nvme_send_cmd", name="Nvme0", cmd_type="admin", data_direction="h2c",
                                  cmdbuf=command(IDENTIFY, dw10=1), data_len=4096)
        self.assertEqual(error.code, -32602)
        self.assertEqual(self.state(), "enabled")

    def test_firmware_that_the_controller_does_not_take_is_refused_with_its_status(self):
        with tempfile.NamedTemporaryFile() as image:
            image.write(bytes(8192))
            image.flush()
            error = self.host.refused("bdev_nvme_apply_firmware", filename=image.name, bdev_name="Nvme0n1")
            self.assertEqual(error.code, -32603)
            self.assertIn("INVALID_OPCODE", error.message)
            error = self.host.refused("bdev_nvme_apply_firmware", filename=image.name, bdev_name="m0")
            self.assertIn("m0", error.message)
            image.write(b"x")
            image.flush()
            with self.assertRaisesRegex(Refused, "multiple of 4"):
                self.client.call(f"bdev_nvme_apply_firmware {image.name} Nvme0n1")
        self.assertEqual(self.state(), "enabled")


if __name__ == "__main__":
    unittest.main()
