"""Plugins that do not return or do not release a disk: the log names them, and the host still ends."""

import shutil
import signal
import socket
import tempfile
import time
import unittest

import vendor
from host import Host

LIMIT = 60
NQN = "nqn.2026-01.io.drivebay:stuck"


def until(what, condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


class StuckPlugins(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="drivebay-test.")
        self.addCleanup(shutil.rmtree, self.folder)

    def host(self, good, bad):
        """A host with the example's RAM disk, after replacing `good` by `bad` in its source."""
        with open(f"{vendor.EXAMPLES}/ramdisk.c") as f:
            source = f.read()
        assert good in source
        path = f"{self.folder}/ramdisk.c"
        with open(path, "w") as f:
            f.write(source.replace(good, bad, 1))
        plugin = vendor.compile_c(path, f"{self.folder}/ramdisk.so")
        return Host(plugin_dir=vendor.plugin_dir(self.folder, plugin))

    def test_a_method_that_does_not_return_is_named_and_sigterm_ends_the_host_all_the_same(self):
        with self.host("int32_t status = make_disk(&params);", "int32_t status = make_disk(&params);\n    for (volatile int i = 0; status == 0; i++);") as host:
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(host.socket)
                caller.sendall(b'{"id": 1, "method": "bdev_ramdisk_create", "params": {"name": "R0", "num_blocks": 8}}')
                named = "plugin ramdisk: method bdev_ramdisk_create, on thread app_thread"
                until("the method is not named", lambda: f"{named} has not returned" in host.log(1000))
                process, host.process = host.process, None
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(LIMIT), 1)
                self.assertRegex(host.log(1000), rf"did not end within 15 s and exits: {named}")

    def test_io_that_is_completed_on_a_foreign_thread_is_named_once_and_goes_on(self):
        good = "static void submit(void *chan, struct bay_io *io) {\n    io->done(io, do_io((struct disk *)chan, io)); /* exactly once; do not touch io afterwards */\n}"
        bad = """
            #include <pthread.h>
            struct job { struct disk *disk; struct bay_io *io; };
            static void *run(void *arg) {
                struct job job = *(struct job *)arg;
                free(arg);
                job.io->done(job.io, do_io(job.disk, job.io));
                return NULL;
            }
            static void submit(void *chan, struct bay_io *io) {
                struct job *job = malloc(sizeof *job);
                pthread_t thread;
                job->disk = chan;
                job->io = io;
                pthread_create(&thread, NULL, run, job);
                pthread_detach(thread);
            }"""
        with self.host(good, bad) as host:
            host.call("bdev_ramdisk_create", name="R0", num_blocks=2048)
            _, port = host.export("R0", NQN)
            vendor.verify_over_tcp(port, NQN, 64 << 10)
            named = "bdev R0 (RAM disk in C): its module completed an I/O on another thread"
            self.assertEqual(host.log(1000).count(named), 1, host.log(1000))

    def test_a_disk_that_its_module_keeps_is_not_waited_for_for_ever(self):
        with self.host("static int32_t destruct(void *ctx) {", """
                       static int32_t destruct(void *ctx) {
                           if (((struct disk *)ctx)->num_blocks == 7)
                               return 1; /* later, it says */""") as host:
            host.call("bdev_ramdisk_create", name="R0", num_blocks=7)
            error = host.refused("bdev_ramdisk_delete", name="R0")
            self.assertEqual(error.code, -110)
            self.assertIn("R0: its module has not released it", error.message)
            self.assertEqual(host.call("bdev_get_bdevs"), [])


if __name__ == "__main__":
    unittest.main()
