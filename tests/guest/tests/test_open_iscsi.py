"""A Linux kernel as the initiator of units that the host under test serves over iSCSI."""

import os
import time

from guest import CACHE, soak_only
from host import Host, free_port
from nvme_guest import NQN, NvmeGuestTest
from test_nvme_tcp import DISK_SIZE, MIB, file_disk, ram_disk

IQN = "iqn.2026-01.io.drivebay:test"
INITIATOR = "iqn.2026-01.io.drivebay:guest"
# The smallest size that mkfs.xfs accepts.
XFS_SIZE = 300 * MIB


class IscsiGuestTest(NvmeGuestTest):
    def begin(self, script, port=None, **options):
        env = {"IQN": IQN, "INITIATOR": INITIATOR, "OPEN_ISCSI": f"{CACHE}/open-iscsi", **options.pop("env", {})}
        return super().begin(script, port, env=env, **options)

    def export(self, host, *bdevs, ports=(), **target):
        """A target with these bdevs as its units, behind one portal group for each port. Returns the ports."""
        ports = ports or [free_port()]
        for tag, port in enumerate(ports, start=1):
            self.open_portal(host, tag, port)
        host.call("iscsi_create_initiator_group", tag=1, initiators=[INITIATOR], netmasks=["127.0.0.0/8"])
        host.call("iscsi_create_target_node", name=IQN, alias_name="test", queue_depth=64,
                  pg_ig_maps=[{"pg_tag": tag, "ig_tag": 1} for tag in range(1, len(ports) + 1)],
                  luns=[{"bdev_name": name, "lun_id": lun} for lun, name in enumerate(bdevs)], **target)
        return ports

    def open_portal(self, host, tag, port):
        host.call("iscsi_create_portal_group", tag=tag, portals=[{"host": "127.0.0.1", "port": str(port)}])

    def test_ext4_and_xfs_with_chap_both_ways_and_digests(self):
        secret = {"user": "guest", "secret": "the-guests-secret", "muser": "target", "msecret": "the-targets-secret"}
        settings = {
            "node.session.auth.authmethod": "CHAP",
            "node.session.auth.username": secret["user"],
            "node.session.auth.password": secret["secret"],
            "node.session.auth.username_in": secret["muser"],
            "node.session.auth.password_in": secret["msecret"],
            "node.conn[0].iscsi.HeaderDigest": "CRC32C",
            "node.conn[0].iscsi.DataDigest": "CRC32C",
        }
        with Host() as host:
            host.call("iscsi_create_auth_group", tag=1, secrets=[secret])
            large = host.call("bdev_malloc_create", name="Large0", block_size=512, num_blocks=XFS_SIZE // 512)
            (port,) = self.export(host, ram_disk(host), large, require_chap=True, mutual_chap=True, chap_group=1)
            env = {"SETTINGS": " ".join(f"{name}={value}" for name, value in settings.items())}
            self.run_script("iscsi_tree.sh", port, env=env)
            self.assertIn(f"127.0.0.1:{port},1 {IQN}", self.found("discovery"))
            for line in ("HeaderDigest: CRC32C", "DataDigest: CRC32C"):
                self.assertIn(line, self.found("session"))
            self.assertEqual(host.call("iscsi_get_connections"), [])

    def test_killed_under_load_and_restarted_nothing_synced_is_lost(self):
        with Host() as host:
            disk, _ = file_disk(host)
            ports = self.export(host, disk)
            guest = self.begin("killed.sh", ports[0], env={"INITIATOR_KIND": "iscsi"})
            guest.wait_for("loaded")
            host.kill()
            progress = self.found("progress")
            # The initiator must fail to connect at least once.
            time.sleep(2.5)
            self.assertLess(int(self.found("progress")) - int(progress), 10, "writes went on without a target")
            host.start()
            file_disk(host)
            self.export(host, disk, ports=ports)
            guest.tell("restarted")
            self.end(guest)

    @soak_only
    def test_a_unit_comes_and_goes_and_another_one_grows_while_fio_verifies(self):
        grown = DISK_SIZE + 32 * MIB
        with Host() as host:
            disk, path = file_disk(host)
            (port,) = self.export(host, disk)
            guest = self.begin("iscsi_changes.sh", port, env={"GROWN": str(grown)})
            guest.wait_for("connected")
            host.call("iscsi_target_node_add_lun", name=IQN, bdev_name=ram_disk(host), lun_id=1)
            guest.wait_for("second-used")
            host.call("bdev_malloc_delete", name="Ram0")
            guest.wait_for("second-gone")
            os.truncate(path, grown)
            self.assertIs(host.call("bdev_aio_rescan", name=disk), True)
            self.end(guest)

    @soak_only
    def test_two_portals_under_dm_multipath_go_and_come_back_in_turn(self):
        with Host() as host:
            ports = self.export(host, ram_disk(host), ports=[free_port(), free_port()])
            guest = self.begin("iscsi_multipath.sh", ports[0], env={"SECOND_PORT": str(ports[1])})
            guest.wait_for("connected")
            self.close_portal(host, 2)
            guest.wait_for("second-failed")
            self.open_portal(host, 2, ports[1])
            host.call("iscsi_target_node_add_pg_ig_maps", name=IQN, pg_ig_maps=[{"pg_tag": 2, "ig_tag": 1}])
            guest.wait_for("second-back")
            self.close_portal(host, 1)
            self.end(guest)

    @soak_only
    def test_the_plugin_is_loaded_into_a_host_that_serves_nvme_tcp_under_load(self):
        with Host("--load", "malloc", "--load", "nvmf-tcp") as host:
            _, nvme_port = host.export(ram_disk(host), NQN)
            port = free_port()
            guest = self.begin("iscsi_hot_add.sh", port, env={"NVME_PORT": str(nvme_port)})
            guest.wait_for("connected")
            state = {plugin["name"]: plugin["state"] for plugin in host.call("plugin_list")}
            self.assertNotEqual(state["iscsi"], "serving")
            host.call("plugin_load", name="iscsi")
            self.export(host, ram_disk(host, "Ram1"), ports=[port])
            guest.tell("loaded")
            self.end(guest)

    def close_portal(self, host, tag):
        """No new session can use it, and existing sessions are asked to log out."""
        host.call("iscsi_delete_portal_group", tag=tag)
        host.call("iscsi_target_node_request_logout", name=IQN, pg_tag=tag)
