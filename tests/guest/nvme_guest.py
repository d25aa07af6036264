"""The base class of tests with a kernel NVMe/TCP initiator: it runs a script in a guest and gives it the target's
address."""

import json
import os
import tempfile
import unittest

from guest import DIED, HERE, HOST_ADDRESS, Guest

NQN = "nqn.2026-01.io.drivebay:test"

# Seconds that a guest may take. The longest script needs about 40 on an idle machine.
LIMIT = 240


class NvmeGuestTest(unittest.TestCase):
    """Every test has a run directory, where the guest's script leaves its results."""

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
        # Whatever the test does, no guest is left running. This does nothing if the guest has
        # ended.
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
        self.assertTrue(output.rstrip().endswith("done"), f"the script did not reach its end:\n{output}")

    def log_of_a_host(self):
        """The last log lines of a host that ran inside the guest."""
        try:
            with open(f"{self.rundir}/host.log", errors="replace") as f:
                return "-- the log of the guest's host:\n" + "".join(f.readlines()[-40:])
        except FileNotFoundError:
            return ""

    def run_script(self, script, port=None, limit=LIMIT, **options):
        """Runs a script to its end, at most `limit` seconds. If the emulator itself broke the run (a panic in the guest's kernel, which two
        emulated CPUs sometimes cause), the run is repeated once, and the output says so."""
        guest = self.begin(script, port, **options)
        if options.get("smp", 1) > 1 and guest.wait(limit) == DIED:
            print(f"-- the guest died, repeating the run:\n{guest.console()}", flush=True)
            for name in os.listdir(self.rundir):
                os.unlink(f"{self.rundir}/{name}")
            guest = self.begin(script, port, **options)
        self.end(guest, limit)

    def found(self, name):
        """A result that the script left in the run directory: parsed if it is JSON."""
        with open(f"{self.rundir}/{name}") as f:
            return json.load(f) if name.endswith(".json") else f.read().strip()
