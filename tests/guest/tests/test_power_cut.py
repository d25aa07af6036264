"""Power cuts: files that were fsynced on a file system over NVMe/TCP survive, whatever the disk may lose.

The host runs inside the guest. Its aio bdev is on a disk whose writes QEMU logs. From the log, the test makes
images of the disk as a power cut may leave it, at many points. e2fsck replays the journal of each image, and
debugfs extracts the files, without mounting anything here.
"""

import os
import random
import subprocess
import time

import logreplay
from nvme_guest import LIMIT, NvmeGuestTest
from scripts import power_writer

SIZE = 64 << 20
# The long form has 100 points and more rounds.
SOAK = os.environ.get("DRIVEBAY_SOAK") == "1"
ROUNDS, CUTS = (150, 100) if SOAK else (40, 12)



class PowerCut(NvmeGuestTest):
    def test_everything_fsynced_is_there_at_every_cut_point(self):
        noted = self.write_under_log()
        self.assertEqual(len(noted), ROUNDS)
        self.files = list(power_writer.versions(ROUNDS))
        with logreplay.Log(self.log) as log:
            entries = log.length()
        rng = random.Random(7)
        lost_writes = 0
        for cut in range(CUTS):
            # Every other cut comes right after a round has become durable. This is the strictest check, because nothing
            # of the round may be lost.
            limit = rng.choice(noted) if cut % 2 else rng.randint(noted[0], entries)
            keep = rng.choice([0.0, 0.0, 0.5, 0.9])
            with self.subTest(limit=limit, keep=keep, seed=cut):
                _, lost = logreplay.replay(self.log, self.image, SIZE, limit, seed=cut, keep=keep)
                lost_writes += lost
                self.assertEqual(self.problems(noted, limit), [])
        self.assertGreater(lost_writes, 0, "no cut lost a write: nothing was tested")
        print(f"   {CUTS} cut points, {entries} log entries, {lost_writes} unflushed writes dropped", flush=True)

        # The same check on a disk that ignores flushes.
        logreplay.replay(self.log, self.image, SIZE, noted[-1], keep=0.0, flushes=False)
        self.assertNotEqual(self.problems(noted, noted[-1]), [], "a disk that ignores flushes is not noticed")

    def write_under_log(self):
        """Runs the load. Returns the length of the log when each round was known to be durable."""
        disk, self.log = f"{self.rundir}/disk", f"{self.rundir}/log"
        self.image, self.out = f"{self.rundir}/image", f"{self.rundir}/out"
        with open(disk, "wb") as f:
            f.truncate(SIZE)
        open(self.log, "wb").close()
        qemu_arg = [f"-blockdev driver=file,node-name=base,filename={disk} "
                    f"-blockdev driver=file,node-name=logfile,filename={self.log} "
                    "-blockdev driver=blklogwrites,node-name=logged,file=base,log=logfile,log-super-update-interval=1 "
                    "-device virtio-blk-pci,drive=logged,write-cache=on"]
        env = {"ROUNDS": str(ROUNDS), **{name: os.environ[name] for name in ("DRIVEBAY_BIN", "DRIVEBAY_PLUGIN_DIR")}}
        guest = self.begin("power.sh", env=env, net="none", qemu_arg=qemu_arg)
        noted = []
        end = time.monotonic() + LIMIT
        with logreplay.Log(self.log) as log:
            while len(noted) < ROUNDS:
                guest.wait_for("synced")
                number = int(self.found("synced"))
                self.assertLess(time.monotonic(), end, f"only {number} rounds of {ROUNDS} in {LIMIT} s")
                if number == len(noted):
                    time.sleep(0.005)
                else:
                    noted.append(log.length())
                    guest.tell(f"noted-{number}")
        self.end(guest)
        return noted

    def problems(self, noted, limit):
        """Lists what is wrong with the file system in the image: nothing, if it has all durable content."""
        subprocess.run(["e2fsck", "-fy", "-E", "journal_only", self.image], capture_output=True)
        checked = subprocess.run(["e2fsck", "-fn", self.image], capture_output=True, text=True)
        if checked.returncode != 0:
            return [f"e2fsck: {checked.stdout}"]
        subprocess.run(["rm", "-rf", self.out], check=True)
        os.mkdir(self.out)
        subprocess.run(["debugfs", "-R", f"rdump / {self.out}", self.image], capture_output=True, check=True)
        durable = sum(length <= limit for length in noted)
        found = []
        for slot in range(power_writer.SLOTS):
            of_slot = [(number, content) for number, at, content in self.files if at == slot]
            # The newest durable content, or the content that was replacing it.
            allowed = [content for number, content in of_slot if number <= durable][-1:]
            missing_allowed = not allowed
            allowed += [content for number, content in of_slot if number == durable + 1]
            try:
                with open(f"{self.out}/slot{slot}", "rb") as f:
                    content = f.read()
                if content not in allowed:
                    found.append(f"slot{slot} holds {len(content)} bytes that are not its durable content")
            except FileNotFoundError:
                if not missing_allowed:
                    found.append(f"slot{slot} is gone")
        return found
