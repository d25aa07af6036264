"""The filter of docs/plugin-guide from start to end, in Rust and in C: `plugin new`, signature, the policy `require`, a
Linux kernel's file system over NVMe/TCP, and then the content of the base. Commands and output are those of the
document."""

import os
import unittest

import vendor
from guest import HOST_ADDRESS
from guide import Document, expect
from host import free_port
from nvme_guest import NvmeGuestTest


class VendorFilter(NvmeGuestTest):
    def check(self, name, sdk=""):
        document, port = Document(name, with_kernel=True), free_port()
        self.assertTrue(document.kernel, "the document uses no kernel")
        numbers = [str(number) for number in range(1, len(document.kernel) + 1)]
        for number, text in zip(numbers, document.kernel):
            with open(f"{self.rundir}/block{number}", "w") as f:
                f.write(text)
        self.guest = None

        def attend():
            # The guest boots when the script first asks for it. Before that, the vendor builds.
            if self.guest is None and os.path.exists(f"{self.rundir}/ask1"):
                env = {"BLOCKS": " ".join(numbers), "HOST": HOST_ADDRESS, "PORT": str(port)}
                self.guest = self.begin("guide.sh", env=env)
            # The guest ended and has not reported the end of its script: `end` says why.
            if self.guest is not None and self.guest.process.poll() is not None:
                self.end(self.guest)

        output = document.run(port, attend, KERNEL=self.rundir, DRIVEBAY_SDK=sdk)
        self.end(self.guest)
        expect(self, document.expected, output)
        with open(f"{self.rundir}/output") as f:
            expect(self, document.kernel_expected, f.read())

    def test_a_filter_in_rust_under_a_kernels_file_system(self):
        self.check("filter.md", vendor.sdk())

    def test_a_filter_in_c_under_a_kernels_file_system(self):
        self.check("in-c.md")


if __name__ == "__main__":
    unittest.main()
