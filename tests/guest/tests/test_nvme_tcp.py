"""A Linux kernel as the initiator of disks that the host under test serves over NVMe/TCP."""

import json
import os
import time
import uuid

from guest import soak_only
from host import Host, address, free_port
from iscsi_client import REGISTER, ReservationConflict, Session, reserve_out
from nvme_guest import NQN, NvmeGuestTest

MIB = 1 << 20
DISK_SIZE = 64 * MIB


def ram_disk(host, name="Ram0", **params):
    return host.call("bdev_malloc_create", name=name, block_size=512, num_blocks=DISK_SIZE // 512, **params)


def file_disk(host, name="File0"):
    """A bdev on a file in the host's folder, which outlives the process. Returns (bdev, path)."""
    path = f"{host.folder}/{name}.img"
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.truncate(DISK_SIZE)
    return host.call("bdev_aio_create", name=name, filename=path, block_size=512, fallocate=True), path


class FileSystem(NvmeGuestTest):
    def check_tree(self, make_disk, host_flags=(), **options):
        with Host(*host_flags) as host:
            _, port = host.export(make_disk(host), NQN)
            self.run_script("tree.sh", port, **options)
            (record,) = [r for r in self.found("discovery.json")["records"] if r["subnqn"] == NQN]
            self.assertEqual(record["trtype"], "tcp")
            self.assertEqual(record["trsvcid"], str(port))
            self.assertEqual(host.call("nvmf_subsystem_get_controllers", nqn=NQN), [])
            self.assert_io_was_counted(host)

    def assert_io_was_counted(self, host):
        (stat,) = host.call("bdev_get_iostat")["bdevs"]
        self.assertGreater(stat["bytes_written"], 16 * MIB)
        self.assertGreater(stat["num_read_ops"], 0)

    @soak_only
    def test_on_a_ram_disk(self):
        self.check_tree(ram_disk)

    def test_on_a_file(self):
        self.check_tree(lambda host: file_disk(host)[0])

    def test_with_header_and_data_digests(self):
        self.check_tree(ram_disk, env={"CONNECT": "-g -G"})

    def test_with_two_io_and_two_write_queues(self):
        env = {"CONNECT": "-i 2 -W 2", "QUEUES": "1"}
        self.check_tree(ram_disk, env=env, smp=2)
        # Two queues for reading, two for writing, and the admin queue.
        self.assertEqual(self.found("queue_count"), "5")

    @soak_only
    def test_through_a_filter(self):
        def filtered(host):
            return host.call("bdev_passthru_create", name="Pass0", base_bdev_name=ram_disk(host))

        with Host() as host:
            _, port = host.export(filtered(host), NQN)
            self.run_script("tree.sh", port)


class Identity(NvmeGuestTest):
    def test_nvme_cli_shows_what_was_configured(self):
        name = str(uuid.uuid4())
        with Host() as host:
            _, port = host.export(ram_disk(host, uuid=name), NQN, serial="SERIAL42")
            self.run_script("identify.sh", port)

        controller = self.found("id-ctrl.json")
        self.assertEqual(controller["sn"].strip(), "SERIAL42")
        self.assertEqual(controller["subnqn"], NQN)
        self.assertEqual(controller["cntrltype"], 1)
        self.assertGreaterEqual(controller["nn"], 1)
        self.assertGreater(controller["mn"].strip(), "")

        namespace = self.found("id-ns.json")
        self.assertEqual(namespace["nsze"], DISK_SIZE // 512)
        self.assertEqual(namespace["ncap"], DISK_SIZE // 512)
        self.assertEqual(namespace["lbafs"][namespace["flbas"] & 15]["ds"], 9)
        self.assertEqual(namespace["nguid"], name.replace("-", ""))
        self.assertEqual(self.found("wwid"), f"uuid.{name}")
        self.assertEqual([entry["nsid"] for entry in self.found("list-ns.json")["nsid_list"]], [1])

        self.assertIn(NQN, str(self.found("list-subsys.json")))
        smart = self.found("smart-log.json")
        self.assertEqual(smart["critical_warning"], 0)
        self.assertGreater(int(smart["host_read_commands"]), 0)
        self.assertGreater(len(self.found("error-log.json")["errors"]), 0)
        self.assertRegex(self.found("past-the-end"), "(?i)LBA Out of Range|range")


class Restart(NvmeGuestTest):
    def test_killed_under_load_and_restarted_nothing_synced_is_lost(self):
        with Host() as host:
            disk, _ = file_disk(host)
            _, port = host.export(disk, NQN)
            guest = self.begin("killed.sh", port)
            guest.wait_for("loaded")
            host.kill()
            progress = self.found("progress")
            # The initiator must fail to connect at least once.
            time.sleep(2.5)
            self.assertLess(int(self.found("progress")) - int(progress), 10, "writes went on without a target")
            host.start()
            file_disk(host)
            host.export(disk, NQN, port)
            guest.tell("restarted")
            self.end(guest)


class Outliving(NvmeGuestTest):
    UUID = str(uuid.uuid4())
    SUBSYSTEMS = 400

    def configuration(self, port):
        """Creates many subsystems, each with its listener. The test's subsystem is the last. A host may connect
        meanwhile."""
        disk = {"name": "Ram0", "block_size": 512, "num_blocks": DISK_SIZE // 512, "uuid": self.UUID}
        calls = [("nvmf_create_transport", {"trtype": "TCP"})]
        for number in range(1, self.SUBSYSTEMS):
            nqn = f"nqn.2026-01.io.drivebay:other{number}"
            calls.append(("nvmf_create_subsystem", {"nqn": nqn, "allow_any_host": True}))
            calls.append(("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": address(port)}))
        calls += self.subsystem(port)
        nvmf = [{"method": method, "params": params} for method, params in calls]
        bdev = [{"method": "bdev_malloc_create", "params": disk}]
        return {"subsystems": [{"subsystem": "bdev", "config": bdev}, {"subsystem": "nvmf", "config": nvmf}]}

    def subsystem(self, port):
        return [
            ("nvmf_create_subsystem", {"nqn": NQN, "allow_any_host": True}),
            ("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "Ram0"}}),
            ("nvmf_subsystem_add_listener", {"nqn": NQN, "listen_address": address(port)}),
        ]

    def test_a_host_outlives_an_added_cache_a_subsystem_made_anew_and_a_restart_with_400_subsystems(self):
        port = free_port()
        path = f"{self.rundir}/configuration.json"
        with open(path, "w") as f:
            json.dump(self.configuration(port), f)
        with Host("-c", path) as host:
            guest = self.begin("outlives.sh", port)
            guest.wait_for("connected")
            disk, file = file_disk(host)
            host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": disk, "nsid": 2})
            guest.wait_for("synced")
            with open(f"{self.rundir}/synced-data", "rb") as synced, open(file, "rb") as written:
                data = synced.read()
                self.assertEqual(written.read(len(data)), data)

            host.call("nvmf_delete_subsystem", nqn=NQN)
            # The initiator must be refused at least once, because other subsystems listen at the
            # port.
            time.sleep(2.5)
            for method, params in self.subsystem(port):
                host.call(method, **params)
            guest.tell("remade")
            guest.wait_for("used-again")

            host.kill()
            host.start()
            guest.tell("restarted")
            self.end(guest)


class ChangesWhileConnected(NvmeGuestTest):
    def test_namespace_comes_and_goes_and_the_disk_grows_while_fio_verifies(self):
        grown = DISK_SIZE + 32 * MIB
        with Host() as host:
            disk, path = file_disk(host)
            _, port = host.export(disk, NQN)
            guest = self.begin("changes.sh", port, env={"GROWN": str(grown)})
            guest.wait_for("connected")

            second = {"bdev_name": ram_disk(host), "nsid": 2}
            self.assertEqual(host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace=second), 2)
            guest.wait_for("second-used")
            self.assertIs(host.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2), True)
            guest.wait_for("second-gone")

            os.truncate(path, grown)
            self.assertIs(host.call("bdev_aio_rescan", name=disk), True)
            self.end(guest)
            (bdev,) = host.call("bdev_get_bdevs", name=disk)
            self.assertEqual(bdev["num_blocks"] * bdev["block_size"], grown)

    def test_a_transport_loaded_into_a_running_host_serves(self):
        with Host("--load", "malloc") as host:
            disk = ram_disk(host)
            self.assertEqual(self.serving(host), {"malloc"})
            host.call("plugin_load", name="nvmf-tcp")
            self.assertEqual(self.serving(host), {"malloc", "nvmf", "nvmf-tcp"})
            _, port = host.export(disk, NQN)
            self.run_script("tree.sh", port)

    def serving(self, host):
        return {plugin["name"] for plugin in host.call("plugin_list") if plugin["state"] == "serving"}

    def test_a_listener_added_later_serves_too_and_a_removed_one_no_more(self):
        with Host() as host:
            _, first = host.export(ram_disk(host), NQN)
            second = free_port()
            host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(second))
            host.call("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address(first))
            self.run_script("identify.sh", second)


class Reservations(NvmeGuestTest):
    def test_nvme_cli_reserves_a_namespace_for_one_host_and_a_lun_of_the_same_disk_is_kept_out(self):
        with Host() as host:
            disk = ram_disk(host)
            _, port = host.export(disk, NQN)
            second, iscsi_port = free_port(), free_port()
            host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(second))
            host.call("iscsi_create_portal_group", tag=1, portals=[{"host": "127.0.0.1", "port": str(iscsi_port)}])
            host.call("iscsi_create_initiator_group", tag=2, initiators=["ANY"], netmasks=["ANY"])
            target = {"name": "disk1", "alias_name": "", "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}], "queue_depth": 64,
                      "luns": [{"bdev_name": disk, "lun_id": 0}]}
            host.call("iscsi_create_target_node", **target)
            # Neither protocol reserves a disk that the other one serves, too.
            session = Session(iscsi_port, "iqn.2016-06.io.spdk:disk1")
            with self.assertRaises(ReservationConflict):
                reserve_out(session, REGISTER, new_key=1)
            session.close()
            guest = self.begin("reservations.sh", port, env={"SECOND_PORT": str(second)})
            guest.wait_for("refused")
            host.call("iscsi_delete_target_node", name="iqn.2016-06.io.spdk:disk1")
            guest.tell("no-lun")
            guest.wait_for("reserved")
            self.assertIn("in use", host.refused("iscsi_create_target_node", **target).message)
            guest.tell("lun-refused")
            self.end(guest)
            host.call("iscsi_create_target_node", **target)
        for name, kind, registrants in (("reserved", 1, 1), ("preempted", 2, 1), ("free", 0, 0)):
            report = self.found(f"{name}.json")
            self.assertEqual((report["rtype"], report["regctl"]), (kind, registrants), name)


class Multipath(NvmeGuestTest):
    def test_the_kernel_s_multipath_follows_the_ana_states_of_two_listeners_and_survives_the_loss_of_one(self):
        ports = [free_port(), free_port()]
        with Host() as host:
            host.call("nvmf_create_transport", trtype="TCP")
            host.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, ana_reporting=True)
            host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": ram_disk(host)})
            for port, state in zip(ports, ("optimized", "inaccessible")):
                host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(port), ana_state=state)

            def set_state(port, state):
                host.call("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=address(port), ana_state=state)

            guest = self.begin("multipath.sh", ports[0], env={"SECOND_PORT": str(ports[1])})
            guest.wait_for("connected")
            set_state(ports[0], "inaccessible")
            set_state(ports[1], "optimized")
            guest.tell("second-only")
            guest.wait_for("second-used")
            set_state(ports[0], "non_optimized")
            guest.tell("both")
            guest.wait_for("both-used")
            host.call("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address(ports[1]))
            guest.tell("second-gone")
            guest.wait_for("first-used")
            self.end(guest)
