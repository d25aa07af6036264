"""The contents of the initramfs, on machines whose busybox is the usual dynamic one. No guest starts here."""

import os
import shutil
import sys
import tempfile
import unittest
from unittest import mock

import guest


class Initramfs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="drivebay-guest.")
        self.addCleanup(folder.cleanup)
        self.cache = folder.name
        self.kernel = os.path.realpath(f"{guest.CACHE}/current")

    def test_a_busybox_that_needs_libraries_is_passed_over_and_named(self):
        dynamic = f"{self.cache}/busybox"
        shutil.copy("/bin/sh", dynamic)
        self.assertFalse(guest.is_static(guest.read(dynamic)))
        static = guest.find_busybox(guest.CACHE)
        with mock.patch("shutil.which", return_value=static):
            self.assertEqual(guest.find_busybox(self.cache), static)
        exists = os.path.exists
        with mock.patch("shutil.which", return_value=dynamic), \
                mock.patch("os.path.exists", lambda path: path == dynamic and exists(path)), \
                self.assertRaisesRegex(FileNotFoundError, f"{dynamic} needs shared libraries"):
            guest.find_busybox(self.cache)

    def test_other_parts_make_another_archive(self):
        kernel = f"{self.cache}/kernel"
        os.mkdir(kernel)
        os.symlink(f"{self.kernel}/modules", f"{kernel}/modules")
        first = guest.initramfs(kernel)
        self.assertEqual(guest.initramfs(kernel), first)
        other = guest.read(guest.find_busybox(guest.CACHE)) + b" of another build"
        with open(f"{self.cache}/busybox", "wb") as f:
            f.write(other)
        self.assertNotEqual(guest.initramfs(kernel, self.cache), first)
        self.assertTrue(os.path.exists(first), "earlier runs still need their initramfs")


if __name__ == "__main__":
    sys.exit(unittest.main())
