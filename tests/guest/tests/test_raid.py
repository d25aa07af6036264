"""A file system on a mirror. The second disk is in another host process, over NVMe/TCP."""

from guest import soak_only
from host import Host
from nvme_guest import LIMIT, NQN, NvmeGuestTest
from replica import Mirror

MIB = 1 << 20
SIZE = 192 * MIB


class Replica(NvmeGuestTest):
    @soak_only
    def test_ext4_loses_nothing_when_a_replica_is_killed_under_load_and_again_in_its_resync(self):
        with Host() as target, Host() as host:
            mirror = Mirror(host, target, SIZE)
            _, port = host.export("mirror", NQN)
            guest = self.begin("mirror.sh", port)
            guest.wait_for("loaded", LIMIT)

            mirror.kill_replica()
            mirror.wait_until_degraded()
            self.write_on(guest)
            mirror.bring_back_replica()
            copied = mirror.wait_until_rebuilt()
            self.assertLess(copied, SIZE // 2)
            print(f"-- first resync: {copied} of {SIZE} bytes", flush=True)
            self.write_on(guest)

            mirror.kill_replica()
            mirror.wait_until_degraded()
            self.write_on(guest)
            mirror.bring_back_and_kill_in_resync()
            mirror.wait_until_degraded()
            self.write_on(guest)
            mirror.bring_back_replica()
            copied = mirror.wait_until_rebuilt()
            self.assertLess(copied, SIZE // 2)
            print(f"-- second resync: {copied} of {SIZE} bytes", flush=True)

            # The replica alone must hold all data.
            host.call("bdev_raid_remove_base_bdev", name="local")
            guest.tell("enough")
            self.end(guest, 4 * LIMIT)

    turn = 0

    def write_on(self, guest):
        """Lets the guest write and sync more files."""
        self.turn += 1
        guest.tell(f"write-{self.turn}")
        guest.wait_for(f"written-{self.turn}", LIMIT)
