"""A raid1 of a local disk and a disk of a second host process, over NVMe/TCP. Tests kill the second host and start it again."""

import os
import time

from host import free_port

MIB = 1 << 20
NQN = "nqn.2026-01.io.drivebay:replica"
# Seconds that a busy machine may take to notice the loss of a disk, or to copy some MiB.
LIMIT = 180


class Mirror:
    """The array `mirror` of `host`: `local`, and `remote`, which `target` serves. Each file has `size` bytes plus a MiB."""

    def __init__(self, host, target, size):
        self.host, self.target, self.size = host, target, size
        self.port = free_port()
        self.serve()
        self.disk(host, "local", 1)
        self.attach()
        host.call("bdev_raid_create", name="mirror", raid_level="raid1", base_bdevs=["local", "Nvme0n1"], superblock=True)

    def serve(self):
        self.disk(self.target, "remote", 2)
        self.target.export("remote", NQN, self.port)

    def disk(self, host, name, number):
        path = f"{host.folder}/{name}"
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.truncate(self.size + MIB)
        host.call("bdev_aio_create", name=name, filename=path, block_size=512,
                  uuid=f"00000000-0000-4000-8000-00000000000{number}")

    def attach(self):
        self.host.call("bdev_nvme_attach_controller", name="Nvme0", trtype="TCP", adrfam="IPv4", traddr="127.0.0.1",
                       trsvcid=str(self.port), subnqn=NQN, ctrlr_loss_timeout_sec=3, reconnect_delay_sec=1,
                       fast_io_fail_timeout_sec=1)

    def show(self):
        return self.host.call("bdev_raid_get_bdevs", category="all")[0]

    def kill_replica(self):
        self.target.kill()

    def wait_until_degraded(self):
        wait(lambda: self.show()["num_base_bdevs_discovered"] == 1)

    def bring_back_replica(self):
        """Starts the second host again and attaches its disk again."""
        wait(lambda: self.host.call("bdev_nvme_get_controllers") == [])
        self.target.start()
        self.serve()
        self.attach()

    def bring_back_and_kill_in_resync(self):
        """Kills the second host again when the resync has begun."""
        self.host.call("bdev_raid_set_options", process_window_size_kb=256, process_max_bandwidth_mb_sec=2)
        self.bring_back_replica()
        wait(lambda: self.show().get("process", {"progress": {"blocks": 0}})["progress"]["blocks"] > 0)
        self.kill_replica()
        self.host.call("bdev_raid_set_options", process_max_bandwidth_mb_sec=0)

    def wait_until_rebuilt(self):
        """Waits for the end of the rebuild. Returns how many bytes it copied."""
        def is_whole():
            shown = self.show()
            return "process" not in shown and shown["num_base_bdevs_discovered"] == 2
        wait(is_whole)
        return self.show()["last_rebuild"]["copied_bytes"]


def wait(condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"not after {LIMIT} s"
        time.sleep(0.05)
