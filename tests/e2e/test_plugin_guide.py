"""docs/plugin-guide works as written. tests/guest/tests/test_vendor_filter.py runs the parts with a Linux kernel."""

import unittest

import vendor
from guide import Document, expect
from host import free_port


class PluginGuide(unittest.TestCase):
    def check(self, name, wants_sdk=True):
        document = Document(name)
        output = document.run(free_port(), DRIVEBAY_SDK=vendor.sdk() if wants_sdk else "")
        expect(self, document.expected, output)

    def test_a_bdev_in_ten_minutes(self):
        self.check("bdev-in-ten-minutes.md")

    def test_a_filter_the_whole_way_in_rust(self):
        self.check("filter.md")

    def test_a_device_that_answers_later(self):
        self.check("slow-device.md")

    def test_a_disk_on_two_disks(self):
        self.check("two-bases.md")

    def test_a_disk_that_returns(self):
        self.check("returning-disk.md")

    def test_a_bdev_and_a_filter_the_whole_way_in_c(self):
        self.check("in-c.md", wants_sdk=False)

    def test_a_transport(self):
        self.check("transport.md")

    def test_shipping(self):
        self.check("shipping.md", wants_sdk=False)


if __name__ == "__main__":
    unittest.main()
