"""PyPI's `spdk` client, unmodified, calls every method that the host promises.

A row of a table is a call as a user types it, and a check of its output. The rows build on each
other: later rows use what earlier ones created. `{folder}`, `{port}` and `{thread}` are filled in.
"""

import os
import subprocess
import unittest

from host import Host, free_port
from spdk_client import Client

NQN = "nqn.2016-06.io.spdk:cnode1"
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:9b3c2c4e-6b8f-4d0e-9d5f-4a1f5a6f0c11"
UUID = "c1b9e3a4-0d1f-4a2b-8c3d-5e6f708192a3"
MIB = 1 << 20

# `rpc_get_methods` must list these, and the tables below must call them.
METHODS = set("""
    rpc_get_methods spdk_get_version spdk_kill_instance
    framework_start_init framework_wait_init framework_get_config framework_get_subsystems
    framework_get_reactors framework_get_pci_devices
    thread_get_stats thread_get_pollers thread_get_io_channels thread_set_cpumask
    log_set_level log_get_level log_set_print_level log_get_print_level
    log_set_flag log_clear_flag log_get_flags
    notify_get_types notify_get_notifications
    bdev_get_bdevs bdev_get_iostat bdev_reset_iostat bdev_examine bdev_wait_for_examine bdev_set_options
    bdev_null_create bdev_null_delete bdev_null_resize
    bdev_malloc_create bdev_malloc_delete
    bdev_aio_create bdev_aio_rescan bdev_aio_delete
    bdev_uring_create bdev_uring_rescan bdev_uring_delete
    bdev_passthru_create bdev_passthru_delete
    iobuf_set_options iobuf_get_stats
    nvmf_create_transport nvmf_get_transports
    nvmf_create_subsystem nvmf_delete_subsystem nvmf_get_subsystems
    nvmf_subsystem_add_listener nvmf_subsystem_remove_listener nvmf_subsystem_get_listeners
    nvmf_subsystem_add_ns nvmf_subsystem_remove_ns
    nvmf_subsystem_add_host nvmf_subsystem_remove_host nvmf_subsystem_allow_any_host
    nvmf_subsystem_get_controllers nvmf_subsystem_get_qpairs nvmf_get_stats
    nvmf_set_config nvmf_set_max_subsystems nvmf_set_crdt
    nvmf_discovery_add_referral nvmf_discovery_remove_referral nvmf_discovery_get_referrals
""".split())


# ---- checks of a call's output ------------------------------------------------------------------

def accepted(result):
    """For a call without a result the client prints nothing, or true."""
    assert result in ("", True), result


def equals(expected):
    def check(result):
        assert result == expected, f"{result!r} is not {expected!r}"
    return check


def contains(*names):
    def check(result):
        missing = [name for name in names if name not in result]
        assert not missing, f"{missing} not in {result}"
    return check


def lacks(name):
    def check(result):
        assert isinstance(result, list) and name not in result, f"{name} in {result}"
    return check


def has(**expected):
    """Expects an object, or an array with one object, with these members."""
    def check(result):
        if isinstance(result, list):
            assert len(result) == 1, f"one entry expected: {result}"
            (result,) = result
        for name, value in expected.items():
            assert name in result, f"no {name} in {result}"
            assert result[name] == value, f"{name} is {result[name]!r}, not {value!r}"
    return check


def listed(key, value, /, **expected):
    """Expects an array of objects, one of which has `value` under `key` and these members."""
    def check(result):
        found = [entry for entry in result if entry.get(key) == value]
        assert found, f"no {value} in {result}"
        has(**expected)(found)
    return check


def objects_with(*names, under=None):
    """Expects an array, not empty, of objects with these members. With `under` it is a member of the result."""
    def check(result):
        entries = result[under] if under else result
        assert entries, f"nothing in {result}"
        for entry in entries:
            contains(*names)(entry)
    return check


def log_flags(value):
    def check(result):
        assert result and set(result.values()) == {value}, result
    return check


def config_of(method, name):
    """Expects a saved configuration in which `method` creates `name`."""
    def check(result):
        found = [entry for entry in result if entry["method"] == method and entry["params"]["name"] == name]
        assert len(found) == 1, f"no {method} of {name} in {result}"
    return check


def registered(name):
    def check(result):
        told = [entry for entry in result if entry["type"] == "bdev_register" and entry["ctx"] == name]
        assert told, f"{name} was not announced: {result}"
    return check


# ---- the tables ---------------------------------------------------------------------------------

BEFORE_INIT = [
    ("spdk_get_version", contains("version", "fields")),
    ("rpc_get_methods", contains(*METHODS)),
    ("rpc_get_methods -c", contains("framework_start_init", "bdev_set_options")),
    ("rpc_get_methods -c", lacks("bdev_get_bdevs")),
    ("log_set_level INFO", accepted),
    ("log_get_level", equals("INFO")),
    ("bdev_set_options -p 8191 -c 128 --auto-examine", accepted),
    ("iobuf_set_options --small-pool-count 1024 --large-pool-count 64", accepted),
    ("nvmf_set_config --discovery-filters match_any", accepted),
    ("nvmf_set_max_subsystems -x 64", accepted),
    ("nvmf_set_crdt -t1 10 -t2 20 -t3 30", accepted),
    ("framework_start_init", accepted),
    ("framework_wait_init", accepted),
    # The configuration has the options that an earlier call set.
    ("framework_get_config iobuf", listed("method", "iobuf_set_options")),
    ("framework_get_config bdev", listed("method", "bdev_set_options")),
    ("framework_get_config nvmf", listed("method", "nvmf_set_max_subsystems", params={"max_subsystems": 64})),
    ("framework_get_config nvmf",
     listed("method", "nvmf_set_crdt", params={"crdt1": 10, "crdt2": 20, "crdt3": 30})),
]

FRAMEWORK = [
    ("framework_wait_init", accepted),
    ("framework_get_subsystems", objects_with("subsystem", "depends_on")),
    ("framework_get_subsystems", listed("subsystem", "bdev")),
    ("framework_get_subsystems", listed("subsystem", "nvmf")),
    ("framework_get_reactors", objects_with("lcore", "busy", "idle", "lw_threads", under="reactors")),
    ("framework_get_pci_devices", equals([])),
    ("rpc_get_methods -c", contains("bdev_malloc_create", "nvmf_create_transport")),
    ("rpc_get_methods -c", lacks("framework_start_init")),
    ("thread_get_stats", objects_with("name", "id", "cpumask", "busy", "idle", under="threads")),
    ("thread_get_pollers",
     objects_with("name", "id", "active_pollers", "timed_pollers", "paused_pollers", under="threads")),
    ("thread_set_cpumask -i {thread} -m 0x1", accepted),
    ("thread_get_stats", lambda result: equals({"1"})({
        thread["cpumask"].removeprefix("0x") for thread in result["threads"] if thread["id"] == 1})),
    ("log_set_level DEBUG", accepted),
    ("log_get_level", equals("DEBUG")),
    ("log_set_print_level WARNING", accepted),
    ("log_get_print_level", equals("WARNING")),
    ("log_set_flag all", accepted),
    ("log_get_flags", log_flags(True)),
    ("log_clear_flag all", accepted),
    ("log_get_flags", log_flags(False)),
    ("notify_get_types", contains("bdev_register", "bdev_unregister")),
    ("iobuf_get_stats", objects_with("module", "small_pool", "large_pool")),
]

BDEVS = [
    ("bdev_get_bdevs", equals([])),
    ("bdev_null_create Null0 64 4096", equals("Null0")),
    ("bdev_get_bdevs -b Null0", has(name="Null0", block_size=4096, num_blocks=64 * MIB // 4096)),
    ("bdev_null_resize Null0 128", accepted),
    ("bdev_get_bdevs -b Null0", has(num_blocks=128 * MIB // 4096)),
    ("bdev_malloc_create -b Malloc0 16 512 -u " + UUID, equals("Malloc0")),
    ("bdev_get_bdevs -b Malloc0", has(
        name="Malloc0", uuid=UUID, block_size=512, num_blocks=16 * MIB // 512, claimed=False, zoned=False,
        product_name="Malloc disk")),
    ("bdev_get_bdevs -b " + UUID, has(name="Malloc0")),
    ("bdev_malloc_create 1 512", lambda name: contains("Malloc")(name)),
    ("bdev_passthru_create -b Malloc0 -p Pass0", equals("Pass0")),
    ("bdev_get_bdevs -b Pass0", has(name="Pass0", num_blocks=16 * MIB // 512)),
    ("bdev_get_bdevs -b Malloc0", has(claimed=True)),
    ("bdev_aio_create {folder}/aio.img Aio0 512", equals("Aio0")),
    ("bdev_get_bdevs -b Aio0", has(name="Aio0", block_size=512, num_blocks=8 * MIB // 512)),
    ("bdev_uring_create {folder}/uring.img Uring0 4096", equals("Uring0")),
    ("bdev_get_bdevs -b Uring0", has(name="Uring0", block_size=4096, num_blocks=8 * MIB // 4096)),
    ("bdev_examine -b Malloc0", accepted),
    ("bdev_wait_for_examine", accepted),
    ("notify_get_notifications -i 0 -n 100", registered("Malloc0")),
    ("bdev_get_iostat", objects_with("name", "bytes_read", "num_read_ops", "bytes_written", under="bdevs")),
    ("bdev_get_iostat --names Malloc0", lambda result: has(name="Malloc0", num_write_ops=0)(result["bdevs"])),
    ("bdev_reset_iostat -b Malloc0", accepted),
    ("bdev_reset_iostat -m all", accepted),
    ("thread_get_io_channels", objects_with("name", "io_channels", under="threads")),
    ("framework_get_config bdev", config_of("bdev_malloc_create", "Malloc0")),
    ("framework_get_config bdev", config_of("bdev_aio_create", "Aio0")),
    ("framework_get_config bdev", config_of("bdev_passthru_create", "Pass0")),
]

AFTER_THE_FILES_GREW = [
    ("bdev_aio_rescan Aio0", accepted),
    ("bdev_get_bdevs -b Aio0", has(num_blocks=12 * MIB // 512)),
    ("bdev_uring_rescan Uring0", accepted),
    ("bdev_get_bdevs -b Uring0", has(num_blocks=12 * MIB // 4096)),
]

ADDRESS = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1"}
AT = "-t TCP -a 127.0.0.1 -s {port} -f IPv4"

NVMF = [
    ("nvmf_get_transports", equals([])),
    ("nvmf_create_transport -t TCP -q 128 -m 127 -c 4096 -i 131072", accepted),
    ("nvmf_get_transports --trtype TCP", has(
        trtype="TCP", max_queue_depth=128, max_io_qpairs_per_ctrlr=127, in_capsule_data_size=4096,
        max_io_size=131072)),
    (f"nvmf_create_subsystem {NQN} -s SPDK00000000000001 -d Controller1 -m 16", accepted),
    (f"nvmf_get_subsystems {NQN}", has(
        nqn=NQN, subtype="NVMe", serial_number="SPDK00000000000001", model_number="Controller1",
        max_namespaces=16, allow_any_host=False, hosts=[], namespaces=[], listen_addresses=[])),
    (f"nvmf_subsystem_add_host {NQN} {HOST_NQN}", accepted),
    (f"nvmf_get_subsystems {NQN}", has(hosts=[{"nqn": HOST_NQN}])),
    (f"nvmf_subsystem_remove_host {NQN} {HOST_NQN}", accepted),
    (f"nvmf_get_subsystems {NQN}", has(hosts=[])),
    (f"nvmf_subsystem_allow_any_host --allow-any-host {NQN}", accepted),
    (f"nvmf_get_subsystems {NQN}", has(allow_any_host=True)),
    (f"nvmf_subsystem_allow_any_host --no-allow-any-host {NQN}", accepted),
    (f"nvmf_get_subsystems {NQN}", has(allow_any_host=False)),
    (f"nvmf_subsystem_add_ns {NQN} Null0 -n 3", lambda result: contains(result)(("", 3))),
    (f"nvmf_get_subsystems {NQN}", lambda result: listed("nsid", 3, name="Null0", bdev_name="Null0")(
        result[0]["namespaces"])),
    (f"nvmf_subsystem_remove_ns {NQN} 3", accepted),
    (f"nvmf_get_subsystems {NQN}", has(namespaces=[])),
    (f"nvmf_subsystem_add_listener {NQN} {AT}", accepted),
    (f"nvmf_subsystem_get_listeners {NQN}", lambda result: has(**ADDRESS)(result[0]["address"])),
    (f"nvmf_subsystem_get_controllers {NQN}", equals([])),
    (f"nvmf_subsystem_get_qpairs {NQN}", equals([])),
    ("nvmf_get_stats", objects_with("name", "admin_qpairs", "io_qpairs", "completed_nvme_io", "transports",
                                    under="poll_groups")),
    (f"nvmf_discovery_add_referral {AT}", accepted),
    ("nvmf_discovery_get_referrals", lambda result: has(**ADDRESS)(result[0]["address"])),
    (f"nvmf_discovery_remove_referral {AT}", accepted),
    ("nvmf_discovery_get_referrals", equals([])),
    ("framework_get_config nvmf", listed("method", "nvmf_create_transport")),
    ("framework_get_config nvmf", listed("method", "nvmf_create_subsystem")),
    ("framework_get_config nvmf", listed("method", "nvmf_subsystem_add_listener")),
    (f"nvmf_subsystem_remove_listener {NQN} {AT}", accepted),
    (f"nvmf_subsystem_get_listeners {NQN}", equals([])),
    (f"nvmf_delete_subsystem {NQN}", accepted),
    ("nvmf_get_subsystems", lambda result: lacks(NQN)([entry["nqn"] for entry in result])),
]

THE_END = [
    ("bdev_passthru_delete Pass0", accepted),
    ("bdev_get_bdevs -b Malloc0", has(claimed=False)),
    ("bdev_aio_delete Aio0", accepted),
    ("bdev_uring_delete Uring0", accepted),
    ("bdev_null_delete Null0", accepted),
    ("bdev_malloc_delete Malloc0", accepted),
    ("bdev_get_bdevs", lambda result: lacks("Malloc0")([entry["name"] for entry in result])),
    ("spdk_kill_instance SIGTERM", accepted),
]


class EveryMethod(unittest.TestCase):
    def check(self, client, table, **fill):
        for number, (line, check) in enumerate(table):
            line = line.format(**fill)
            with self.subTest(f"{number}: {line}"):
                check(client.call(line))

    def assert_ended(self, host):
        """The host has accepted the call to stop, and its process must end."""
        process, host.process = host.process, None
        try:
            self.assertEqual(process.wait(20), 0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.fail("the host did not end")

    def test_before_the_framework_is_initialized(self):
        with Host("--wait-for-rpc") as host, Client(host.socket) as client:
            self.check(client, BEFORE_INIT)

    def test_at_run_time(self):
        with Host() as host, Client(host.socket) as client:
            fill = {"folder": host.folder, "port": free_port(), "thread": 1}
            files = [f"{host.folder}/{name}.img" for name in ("aio", "uring")]
            for path in files:
                with open(path, "wb") as f:
                    f.truncate(8 * MIB)
            self.check(client, FRAMEWORK, **fill)
            self.check(client, BDEVS, **fill)
            for path in files:
                os.truncate(path, 12 * MIB)
            self.check(client, AFTER_THE_FILES_GREW, **fill)
            self.check(client, NVMF, **fill)
            self.check(client, THE_END, **fill)
            self.assert_ended(host)

    def test_no_method_is_left_out(self):
        tables = BEFORE_INIT + FRAMEWORK + BDEVS + AFTER_THE_FILES_GREW + NVMF + THE_END
        called = {line.split()[0] for line, _ in tables}
        self.assertEqual(METHODS - called, set())
        self.assertEqual(called - METHODS, set())


class Refusals(unittest.TestCase):
    """Errors that clients test for: the code, and a text that names the field."""

    def refused(self, host, code, word, method, **params):
        with self.subTest(f"{method} {params}"):
            error = host.refused(method, **params)
            self.assertEqual(error.code, code, error)
            self.assertIn(word, error.message)

    def test_codes_are_the_references(self):
        with Host() as host:
            disk = {"name": "m0", "num_blocks": 8, "block_size": 512}
            host.call("bdev_malloc_create", **disk)
            self.refused(host, -32601, "not found", "no_such_method")
            self.refused(host, -32601, "did you mean bdev_get_bdevs?", "bdev_get_bdev")
            self.refused(host, -32601, "not implemented yet", "bdev_crypto_create")
            self.refused(host, -32602, "colour", "bdev_malloc_create", **disk, colour="red")
            self.refused(host, -32602, "num_blocks", "bdev_malloc_create", name="m1", block_size=512)
            self.refused(host, -32602, "num_blocks", "bdev_malloc_create", **{**disk, "num_blocks": "8"})
            self.refused(host, -22, "block_size", "bdev_malloc_create", **{**disk, "name": "m1", "block_size": 500})
            self.refused(host, -17, "m0", "bdev_malloc_create", **disk)
            self.refused(host, -19, "No such device", "bdev_get_bdevs", name="m9")
            self.refused(host, -19, "No such device", "bdev_malloc_delete", name="m9")
            self.refused(host, -1, "--wait-for-rpc", "bdev_set_options", bdev_io_pool_size=8191)
            # The text is the same for all devices. The data has the name.
            for method in ("bdev_get_bdevs", "bdev_malloc_delete", "bdev_examine"):
                self.assertEqual(host.refused(method, name="m9").data["device"], "m9")


class Shapes(unittest.TestCase):
    """Results that programs for SPDK use."""

    def test_of_a_disk_and_a_filter(self):
        with Host() as host:
            host.call("bdev_malloc_create", name="m0", num_blocks=8.0, block_size=512)
            host.call("bdev_passthru_create", name="p0", base_bdev_name="m0")
            (disk,) = host.call("bdev_get_bdevs", name="m0")
            self.assertEqual(disk["aliases"], [disk["uuid"]])
            (filter_,) = host.call("bdev_get_bdevs", name="p0")
            self.assertEqual(filter_["driver_specific"], {"passthru": {"name": "p0", "base_bdev_name": "m0"}})
            # SPDK 25.05 and earlier name the parameter `name`.
            self.assertEqual([bdev["name"] for bdev in host.call("bdev_get_iostat", name="m0")["bdevs"]], ["m0"])

    def test_of_events_and_batches(self):
        with Host() as host:
            self.assertIn("bdev_resize", host.call("notify_get_types"))
            for name in ("n0", "n1"):
                host.call("bdev_null_create", name=name, num_blocks=2048, block_size=512)
            host.call("bdev_null_resize", name="n0", new_size=2)
            events = [(event["type"], event["ctx"]) for event in host.call("notify_get_notifications")]
            self.assertIn(("bdev_resize", "n0"), events)
            calls = host.call("framework_get_config", name="bdev", with_batches=True)
            (batch,) = [entry for entry in calls if isinstance(entry, list)]
            self.assertEqual([call["params"]["name"] for call in batch], ["n0", "n1"])


if __name__ == "__main__":
    unittest.main()
