"""What the tests with a kernel NVMe/TCP initiator share: a script in a guest, told where the target is."""

import json
import os
import tempfile
import unittest

from guest import DIED, HERE, HOST_ADDRESS, Guest

NQN = "nqn.2026-01.io.drivebay:test"

# Seconds a guest may take; the longest script needs about 40 on an idle machine.
LIMIT = 240


class NvmeGuestTest(unittest.TestCase):
    """Every test has a run directory, in which the guest's script leaves what it found."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="drivebay-guest.")
        self.addCleanup(folder.cleanup)
        self.rundir = folder.name

    def begin(self, script, port=None, **options):
        """Starts tests/guest/scripts/<script> in a guest, against a target on this machine's loopback."""
        env = {"NQN": NQN, "TADDR": HOST_ADDRESS, "TPORT": str(port), **options.pop("env", {})}
        self.output = open(f"{self.rundir}/output", "w")
        self.addCleanup(self.output.close)
        guest = Guest(f"bash {HERE}/scripts/{script}", env=env, rundir=self.rundir, output=self.output, **options)
        guest.start()
        # Nothing is left running, whatever the test does; of no effect when it has ended.
        self.addCleanup(guest.power_cut)
        return guest

    def end(self, guest, limit=LIMIT):
        """Waits for the script's success, `limit` seconds from its start."""
        status = guest.wait(limit)
        with open(f"{self.rundir}/output") as f:
            output = f.read()
        if status != 0:
            console = guest.console() if status == DIED else ""
            self.fail(f"the guest's script ended with {status}:\n{output}\n{console}{self.log_of_a_host()}")
        self.assertTrue(output.rstrip().endswith("done"), f"the script did not come to its end:\n{output}")

    def log_of_a_host(self):
        """The end of the log of a host that ran inside of the guest."""
        try:
            with open(f"{self.rundir}/host.log", errors="replace") as f:
                return "-- the log of the guest's host:\n" + "".join(f.readlines()[-40:])
        except FileNotFoundError:
            return ""

    def run_script(self, script, port=None, **options):
        """A whole run. One that the emulator itself broke (a panic in the guest's kernel, which two
        emulated CPUs see now and then) is repeated once, told on the output."""
        guest = self.begin(script, port, **options)
        if options.get("smp", 1) > 1 and guest.wait(LIMIT) == DIED:
            print(f"-- the guest died, once more:\n{guest.console()}", flush=True)
            for name in os.listdir(self.rundir):
                os.unlink(f"{self.rundir}/{name}")
            guest = self.begin(script, port, **options)
        self.end(guest)

    def found(self, name):
        """What the script left in the run directory: parsed if it is JSON."""
        with open(f"{self.rundir}/{name}") as f:
            return json.load(f) if name.endswith(".json") else f.read().strip()
