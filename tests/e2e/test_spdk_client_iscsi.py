"""PyPI's `spdk` client, unmodified, calls every iSCSI method. The tables are read as in test_spdk_client.py."""

import unittest

from host import Host, free_port
from spdk_client import Client
from test_iscsi import serve
from test_spdk_client import accepted, equals, has, lacks, listed, objects_with

DISK = "iqn.2016-06.io.spdk:disk1"

BEFORE_INIT = [
    ("iscsi_set_options -b iqn.2024-01.io.test -o 30 -n 10 -q 32 -a 64 -s 16384 -k 2", accepted),
    ("framework_start_init", accepted),
    ("iscsi_get_options", has(node_base="iqn.2024-01.io.test", nop_timeout=30, max_queue_depth=32, max_sessions=64)),
    ("framework_get_config iscsi", listed("method", "iscsi_set_options")),
]

METHODS = [
    ("bdev_malloc_create -b Malloc0 8 512", equals("Malloc0")),
    ("bdev_malloc_create -b Malloc1 8 512", equals("Malloc1")),
    ("iscsi_get_options", has(node_base="iqn.2016-06.io.spdk", first_burst_length=8192, immediate_data=True)),
    ("iscsi_create_auth_group 1 -c \"user:u1 secret:s1 muser:m1 msecret:ms1,user:u2 secret:s2\"", accepted),
    ("iscsi_auth_group_add_secret 1 -u u3 -s s3", accepted),
    ("iscsi_auth_group_remove_secret 1 -u u2", accepted),
    ("iscsi_get_auth_groups", lambda result: equals(["u1", "u3"])(
        [secret["user"] for secret in result[0]["secrets"]])),
    ("iscsi_set_discovery_auth -r -g 1", accepted),
    ("iscsi_get_options", has(require_chap=True, chap_group=1)),
    ("iscsi_set_discovery_auth", accepted),

    ("iscsi_create_portal_group 1 127.0.0.1:{port} -w", accepted),
    ("iscsi_start_portal_group 1", accepted),
    ("iscsi_create_portal_group 2 127.0.0.1:{other} -p", accepted),
    ("iscsi_portal_group_set_auth 1 -d", accepted),
    ("iscsi_get_portal_groups", listed("tag", 1, private=False)),
    ("framework_get_config iscsi", listed("method", "iscsi_portal_group_set_auth")),
    ("iscsi_get_portal_groups", listed("tag", 2, private=True)),

    ("iscsi_create_initiator_group 1 \"ANY\" 127.0.0.1/32", accepted),
    ("iscsi_initiator_group_add_initiators 1 -n iqn.host -m 10.0.0.0/8", accepted),
    ("iscsi_initiator_group_remove_initiators 1 -n iqn.host", accepted),
    ("iscsi_get_initiator_groups", has(tag=1, initiators=["ANY"], netmasks=["127.0.0.1/32", "10.0.0.0/8"])),
    ("iscsi_create_initiator_group 2 iqn.other ANY", accepted),

    ("iscsi_create_target_node disk1 Data Malloc0:0 1:1 64 -d", accepted),
    ("iscsi_get_target_nodes", has(
        name=DISK, alias_name="Data", queue_depth=64, disable_chap=True, pg_ig_maps=[{"pg_tag": 1, "ig_tag": 1}],
        luns=[{"bdev_name": "Malloc0", "lun_id": 0}])),
    (f"iscsi_target_node_add_lun {DISK} Malloc1", accepted),
    ("iscsi_get_target_nodes", lambda result: equals([0, 1])([lun["lun_id"] for lun in result[0]["luns"]])),
    (f"iscsi_target_node_add_pg_ig_maps {DISK} \"2:2 1:2\"", accepted),
    (f"iscsi_target_node_remove_pg_ig_maps {DISK} 1:2", accepted),
    ("iscsi_get_target_nodes", has(pg_ig_maps=[{"pg_tag": 1, "ig_tag": 1}, {"pg_tag": 2, "ig_tag": 2}])),
    (f"iscsi_target_node_set_auth {DISK} -r -m -g 1", accepted),
    ("iscsi_get_target_nodes", has(require_chap=True, mutual_chap=True, chap_group=1)),
    (f"iscsi_target_node_set_redirect {DISK} 1 -a 127.0.0.1 -p 3261", accepted),
    ("framework_get_config iscsi", listed("method", "iscsi_target_node_set_redirect")),
    (f"iscsi_target_node_set_redirect {DISK} 1", accepted),
    (f"iscsi_target_node_request_logout {DISK} -t 1", accepted),
    (f"iscsi_enable_histogram {DISK} --histogram", accepted),
    (f"iscsi_get_histogram {DISK}", has(granularity=7, min_range=0)),
    ("scsi_get_devices", listed("device_name", DISK, id=0)),
    ("iscsi_get_connections", equals([])),
    ("iscsi_get_stats", has(invalid=0, running=0, exiting=0, exited=0)),
    ("framework_get_subsystems", listed("subsystem", "iscsi")),
    ("framework_get_config iscsi", objects_with("method", "params")),

    (f"iscsi_delete_target_node {DISK}", accepted),
    ("iscsi_get_target_nodes", equals([])),
    ("iscsi_create_target_node Target3 Data Malloc0:0 1:1 1000", accepted),
    ("iscsi_target_node_set_auth IQN.2016-06.io.spdk:target3 -d", accepted),
    ("iscsi_get_target_nodes", has(name="iqn.2016-06.io.spdk:Target3", queue_depth=64, disable_chap=True)),
    ("iscsi_delete_target_node iqn.2016-06.io.spdk:Target3", accepted),
    ("scsi_get_devices", lambda result: lacks(DISK)([entry["device_name"] for entry in result])),
    ("iscsi_delete_initiator_group 1", accepted),
    ("iscsi_delete_initiator_group 2", accepted),
    ("iscsi_delete_portal_group 1", accepted),
    ("iscsi_delete_portal_group 2", accepted),
    ("iscsi_delete_auth_group 1", accepted),
]


class EveryMethod(unittest.TestCase):
    def check(self, client, table, **fill):
        for number, (line, check) in enumerate(table):
            line = line.format(**fill)
            with self.subTest(f"{number}: {line}"):
                check(client.call(line))

    def test_before_the_framework_is_initialized(self):
        with Host("--wait-for-rpc") as host, Client(host.socket) as client:
            self.check(client, BEFORE_INIT)

    def test_at_run_time(self):
        with Host() as host, Client(host.socket) as client:
            self.check(client, METHODS, port=free_port(), other=free_port())

    def test_refusals_have_the_codes_of_spdk(self):
        with Host() as host:
            host.call("iscsi_set_options", nop_timeout=4000, max_sessions=65535)
            port, other = serve(host), free_port()
            host.call("iscsi_create_portal_group", tag=3, portals=[{"host": "127.0.0.1", "port": str(other)}])
            node = {"alias_name": "", "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}], "queue_depth": 64}
            to = {"redirect_host": "127.0.0.1", "redirect_port": str(port)}
            for method, params, code in (
                ("iscsi_set_options", {}, -32603),
                ("iscsi_delete_target_node", {"name": "iqn.2016-06.io.spdk:none"}, -2),
                ("iscsi_target_node_add_lun", {"name": "iqn.2016-06.io.spdk:none", "bdev_name": "m0"}, -32602),
                # The name in another case is the same name.
                ("iscsi_create_target_node", {"name": "DISK1", "luns": [{"bdev_name": "m0"}], **node}, -32602),
                # A target redirects only through its own portal groups, and not to the same one.
                ("iscsi_target_node_set_redirect", {"name": DISK, "pg_tag": 1, **to}, -32602),
                ("iscsi_target_node_set_redirect", {"name": DISK, "pg_tag": 3, **to}, -32602),
                ("iscsi_enable_histogram", {"name": "iqn.2016-06.io.spdk:none", "enable": True}, -32602),
                ("iscsi_get_histogram", {"name": DISK}, -32602),
                ("bdev_iscsi_delete", {"name": "none"}, -19),
            ):
                with self.subTest(method=method, params=params):
                    self.assertEqual(host.refused(method, **params).code, code)

    def test_no_method_is_left_out(self):
        with Host() as host:
            offered = {name for name in host.call("rpc_get_methods") if name.startswith(("iscsi_", "scsi_"))}
        self.assertEqual(offered - {line.split()[0] for line, _ in BEFORE_INIT + METHODS}, set())


if __name__ == "__main__":
    unittest.main()
