"""Configuration that survives a restart: saved by the client, kept by --state, or saved by SPDK."""

import json
import os
import re
import socket
import unittest

import spdk_client
from host import Host, address, free_port

HERE = os.path.dirname(os.path.realpath(__file__))
NQN = "nqn.2016-06.io.spdk:cnode1"
MIB = 1 << 20


def set_up(host):
    """Creates disks of every kind and a target that uses most features."""
    path = f"{host.folder}/disk.img"
    with open(path, "wb") as f:
        f.truncate(8 * MIB)
    host.call("bdev_null_create", name="Null0", num_blocks=2048, block_size=4096)
    host.call("bdev_malloc_create", name="Malloc0", num_blocks=2048, block_size=512)
    host.call("bdev_passthru_create", name="Pass0", base_bdev_name="Malloc0")
    host.call("bdev_aio_create", name="Aio0", filename=path, block_size=512)
    host.call("bdev_malloc_create", name="Gone", num_blocks=8, block_size=512)
    host.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)
    _, port = host.export("Pass0", NQN, serial="KEPT")
    host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Aio0", "nsid": 7})
    host.call("nvmf_create_subsystem", nqn=f"{NQN}0", max_namespaces=4)
    host.call("nvmf_subsystem_add_host", nqn=f"{NQN}0", host="nqn.2014-08.org.example:host")
    host.call("nvmf_discovery_add_referral", address=address(port))
    # Deleted objects must not return.
    host.call("nvmf_create_subsystem", nqn=f"{NQN}gone")
    host.call("nvmf_delete_subsystem", nqn=f"{NQN}gone")
    host.call("bdev_malloc_delete", name="Gone")


def state_of(host):
    """Everything by which an operator could tell two hosts apart."""
    state = {method: host.call(method) for method in (
        "bdev_get_bdevs", "nvmf_get_transports", "nvmf_get_subsystems", "nvmf_discovery_get_referrals")}
    # Disks created at the same time may be listed in any order.
    state["bdev_get_bdevs"].sort(key=lambda bdev: bdev["name"])
    names = [bdev["name"] for bdev in state["bdev_get_bdevs"]]
    assert names == ["Aio0", "Malloc0", "Null0", "Pass0"], f"the state to compare is not there: {names}"
    return state


class Restart(unittest.TestCase):
    maxDiff = None

    def test_from_what_save_config_printed(self):
        with Host() as host:
            set_up(host)
            before = state_of(host)
            saved = f"{host.folder}/saved.json"
            with open(saved, "w") as f:
                f.write(spdk_client.run(host.socket, "save_config"))
            host.stop()
            host.start("-c", saved)
            self.assertEqual(state_of(host), before)

    def test_by_load_config_into_a_host_that_waits(self):
        with Host() as host:
            set_up(host)
            before = state_of(host)
            saved = spdk_client.run(host.socket, "save_config")
            host.stop()
            host.start("--wait-for-rpc")
            spdk_client.run(host.socket, "load_config", stdin=saved)
            self.assertEqual(state_of(host), before)

    def test_from_the_state_file_after_a_clean_end(self):
        with Host() as host:
            self.restart_from_state(host, host.stop)

    def test_from_the_state_file_after_sigkill(self):
        with Host() as host:
            self.restart_from_state(host, host.kill)

    def restart_from_state(self, host, end):
        flags = ("--state", f"{host.folder}/state.json")
        host.stop()
        host.start(*flags)
        set_up(host)
        before = state_of(host)
        end()
        host.start(*flags)
        self.assertEqual(state_of(host), before)
        # Restart again, now from the file that the first restart wrote.
        end()
        host.start(*flags)
        self.assertEqual(state_of(host), before)

    def test_hosts_are_let_in_when_everything_else_is_there(self):
        port = free_port()
        listen = {"nqn": NQN, "listen_address": address(port)}
        calls = [("nvmf_create_transport", {"trtype": "TCP"}), ("nvmf_create_subsystem", {"nqn": NQN}),
                 ("nvmf_subsystem_add_listener", listen),
                 ("bdev_malloc_create", {"name": "M0", "num_blocks": 64, "block_size": 512}),
                 ("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "M0"}})]
        with Host() as host:
            host.stop()
            path = f"{host.folder}/listener-first.json"
            with open(path, "w") as f:
                config = [{"method": method, "params": params} for method, params in calls]
                json.dump({"subsystems": [{"subsystem": "nvmf", "config": config}]}, f)
            host.start("-c", path, "-L", "all")
            made = re.findall(r"calling.*?method=\"?(\w+)", host.log(5000))
            self.assertEqual(made[-1], "nvmf_subsystem_add_listener", made)
            self.assertEqual(len(made), len(calls))

    def test_portals_that_a_configuration_of_spdk_opens_at_once_open_last(self):
        port = free_port()
        portal = {"tag": 1, "portals": [{"host": "127.0.0.1", "port": str(port)}], "private": False}
        calls = [("iscsi_create_portal_group", portal),
                 ("iscsi_create_initiator_group", {"tag": 2, "initiators": ["ANY"], "netmasks": ["ANY"]}),
                 ("bdev_malloc_create", {"name": "M0", "num_blocks": 64, "block_size": 512}),
                 ("iscsi_create_target_node", {"name": "disk1", "alias_name": "d1", "queue_depth": 8,
                  "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}], "luns": [{"bdev_name": "M0", "lun_id": 0}]})]
        with Host() as host:
            host.stop()
            path = f"{host.folder}/portal-first.json"
            with open(path, "w") as f:
                config = [{"method": method, "params": params} for method, params in calls]
                json.dump({"subsystems": [{"subsystem": "iscsi", "config": config}]}, f)
            host.start("-c", path, "-L", "all")
            made = re.findall(r"calling.*?method=\"?(\w+)", host.log(5000))
            self.assertEqual(made, [method for method, _ in calls] + ["iscsi_start_portal_group"])
            socket.create_connection(("127.0.0.1", port), 10).close()

    def test_a_broken_configuration_is_refused_by_name(self):
        for text, word in [("{", "json"), ('{"subsystems":[{"subsystem":"bdev","config":[{"method":"no_such"}]}]}',
                                           "no_such")]:
            with self.subTest(word), Host() as host:
                host.stop()
                path = f"{host.folder}/broken.json"
                with open(path, "w") as f:
                    f.write(text)
                with self.assertRaisesRegex(AssertionError, rf"(?is)ended with status [1-9].*{word}"):
                    host.start("-c", path)


class SavedBySpdk(unittest.TestCase):
    """A configuration in the form of SPDK's save_config, with entries for modules that do not exist here."""

    def write_config(self, host):
        with open(f"{HERE}/spdk-config.json") as f:
            config = json.load(f)
        backing, port = f"{host.folder}/aio0.img", free_port()
        with open(backing, "wb") as f:
            f.truncate(16 * MIB)
        for subsystem in config["subsystems"]:
            for entry in subsystem["config"]:
                params = entry.get("params", {})
                if "filename" in params:
                    params["filename"] = backing
                if "listen_address" in params:
                    params["listen_address"]["trsvcid"] = str(port)
        path = f"{host.folder}/spdk.json"
        with open(path, "w") as f:
            json.dump(config, f, indent=2)
        return path, port

    def test_it_loads_and_calls_without_effect_are_named(self):
        with Host() as host:
            host.stop()
            path, port = self.write_config(host)
            host.start("-c", path)

            disks = {bdev["name"]: bdev for bdev in host.call("bdev_get_bdevs")}
            self.assertEqual(sorted(disks), ["Aio0", "Malloc0"])
            self.assertEqual(disks["Malloc0"]["uuid"], "3f1d6c52-9a43-4f0c-8a1e-0e2a4a5b6c7d")
            self.assertEqual(disks["Malloc0"]["num_blocks"], 131072)
            self.assertEqual(disks["Aio0"]["uuid"], "51f2a0d4-7b67-4f7e-9c55-6f1f6a7b8c9d")
            self.assertEqual(disks["Aio0"]["block_size"], 4096)
            (subsystem,) = host.call("nvmf_get_subsystems", nqn=NQN)
            self.assertEqual([ns["nsid"] for ns in subsystem["namespaces"]], [1, 2])
            self.assertEqual(subsystem["namespaces"][0]["nguid"], "3F1D6C529A434F0C8A1E0E2A4A5B6C7D")
            self.assertEqual(subsystem["listen_addresses"], [address(port)])
            self.assertEqual(subsystem["serial_number"], "SPDK00000000000001")
            log = host.log(1000)
            for method in ("accel_set_options", "framework_set_scheduler", "sock_impl_set_options"):
                self.assertIn(method, log)

    def test_the_client_loads_it_too(self):
        with Host("--wait-for-rpc") as host:
            path, _ = self.write_config(host)
            with open(path) as f:
                spdk_client.run(host.socket, "load_config", stdin=f.read())
            self.assertEqual(len(host.call("bdev_get_bdevs")), 2)

    def test_what_would_be_lost_ends_the_start_unless_errors_are_ignored(self):
        with Host() as host:
            host.stop()
            path, _ = self.write_config(host)
            with open(path) as f:
                config = json.load(f)
            lost = {"method": "bdev_crypto_create", "params": {"name": "Crypto0"}}
            config["subsystems"][-1]["config"] += [lost, lost]
            with open(path, "w") as f:
                json.dump(config, f)
            expected = r"bdev_crypto_create \(2 times\)"
            with self.assertRaisesRegex(AssertionError, rf"(?s)ended with status [1-9].*{expected}"):
                host.start("-c", path)
            host.start("-c", path, "--json-ignore-init-errors")
            self.assertEqual(len(host.call("bdev_get_bdevs")), 2)
            self.assertRegex(host.log(1000), expected)


class Forms(unittest.TestCase):
    """The extensions of JSON that SPDK accepts in a configuration file."""

    CALL = '{"method": "bdev_null_create", "params": {"name": "n0", "num_blocks": 1.024e3, "block_size": 512}}'

    def test_comments_a_byte_order_mark_and_exponents(self):
        text = f'\ufeff/* disks */ {{"subsystems": [ // all\n{{"subsystem": "bdev", "config": [{self.CALL}]}}]}}'
        with Host() as host:
            host.stop()
            path = f"{host.folder}/c.json"
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            host.start("-c", path)
            self.assertEqual(host.call("bdev_get_bdevs", name="n0")[0]["num_blocks"], 1024)


class StateFile(unittest.TestCase):
    def test_a_second_host_with_the_same_file_does_not_start(self):
        with Host() as host, Host() as other:
            state = ("--state", f"{host.folder}/state.json")
            host.stop()
            host.start(*state)
            other.stop()
            with self.assertRaisesRegex(AssertionError, "(?s)ended with status 1.*another host"):
                other.start(*state)

    def test_a_file_that_others_may_write_is_refused(self):
        with Host() as host:
            host.stop()
            path = f"{host.folder}/state.json"
            with open(path, "w") as f:
                f.write('{"subsystems": []}')
            os.chmod(path, 0o666)
            with self.assertRaisesRegex(AssertionError, "(?s)ended with status 1.*chmod go-w"):
                host.start("--state", path)

    def test_an_empty_file_is_a_host_without_configuration(self):
        with Host() as host:
            host.stop()
            path = f"{host.folder}/state.json"
            open(path, "w").close()
            os.chmod(path, 0o600)
            host.start("--state", path)
            host.call("bdev_null_create", name="n0", num_blocks=8, block_size=512)
            with open(path) as f:
                self.assertIn("n0", f.read())

    @unittest.skipUnless(os.geteuid() == 0, "mounting needs root")
    def test_a_mount_point_is_written_in_place(self):
        with Host() as host:
            host.stop()
            real, mounted = f"{host.folder}/real.json", f"{host.folder}/state.json"
            for path in (real, mounted):
                open(path, "w").close()
                os.chmod(path, 0o600)
            # The bind mount is in its own mount namespace, which ends with the shell.
            script = f'mount --make-rprivate / && mount --bind {real} {mounted} && exec "$@"'
            host.start("--state", mounted, within=["unshare", "-m", "sh", "-c", script, "sh"])
            host.call("bdev_null_create", name="n0", num_blocks=8, block_size=512)
            with open(real) as f:
                self.assertIn("n0", f.read())
            self.assertFalse(os.path.exists(mounted + ".new"))


if __name__ == "__main__":
    unittest.main()
