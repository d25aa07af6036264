"""After any sequence of accepted calls, the host starts again from its state file with the same disks and targets."""

import os
import random
import unittest

from host import Host, RpcError

MIB = 1 << 20
CALLS = 60
SEEDS = range(6)
NAMES = ["a", "b", "c", "d"]
UUIDS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]
NQNS = [f"nqn.2026-01.io.drivebay:{n}" for n in range(2)]
LARGEST_MIB = (1 << 43) - 1


def some_call(rng, folder):
    """A random method with parameters. The host refuses many of these."""
    name, base = rng.choice(NAMES), rng.choice(NAMES)
    file = f"{folder}/{rng.choice('xy')}.img"
    uuid = {"uuid": rng.choice(UUIDS)} if rng.random() < 0.3 else {}
    size = {"num_blocks": rng.choice([1, 8, 2048, (1 << 44) - 1, 1 << 44]), "block_size": rng.choice([512, 1536, 4096])}
    return rng.choice([
        ("bdev_null_create", {"name": name, **size, **uuid}),
        ("bdev_null_resize", {"name": name, "new_size": rng.choice([1, 8, LARGEST_MIB])}),
        ("bdev_null_delete", {"name": name}),
        ("bdev_malloc_create", {"name": name, "num_blocks": 2048, "block_size": 512, **uuid}),
        ("bdev_malloc_create", {"num_blocks": 8, "block_size": 512}),
        ("bdev_malloc_delete", {"name": name}),
        ("bdev_passthru_create", {"name": name, "base_bdev_name": base, **uuid}),
        ("bdev_passthru_delete", {"name": name}),
        ("bdev_aio_create", {"name": name, "filename": file, "block_size": 512, **uuid}),
        ("bdev_aio_rescan", {"name": name}),
        ("bdev_aio_delete", {"name": name}),
        ("nvmf_create_transport", {"trtype": "TCP"}),
        ("nvmf_create_subsystem", {"nqn": rng.choice(NQNS), "allow_any_host": rng.random() < 0.5}),
        ("nvmf_subsystem_add_ns", {"nqn": rng.choice(NQNS), "namespace": {"bdev_name": name}}),
        ("nvmf_subsystem_remove_ns", {"nqn": rng.choice(NQNS), "nsid": rng.choice([1, 2])}),
        ("nvmf_delete_subsystem", {"nqn": rng.choice(NQNS)}),
    ])


def state_of(host):
    bdevs = sorted(host.call("bdev_get_bdevs"), key=lambda bdev: bdev["name"])
    subsystems = sorted(host.call("nvmf_get_subsystems"), key=lambda subsystem: subsystem["nqn"])
    return bdevs, subsystems, host.call("nvmf_get_transports")


class Restart(unittest.TestCase):
    maxDiff = None

    def test_after_random_calls(self):
        for seed in SEEDS:
            with self.subTest(f"seed {seed}"), Host() as host:
                self.restart_after(random.Random(seed), host)

    def restart_after(self, rng, host):
        flags = ("--state", f"{host.folder}/state.json")
        host.stop()
        host.start(*flags)
        for file in ("x", "y"):
            with open(f"{host.folder}/{file}.img", "wb") as f:
                f.truncate(MIB)
        done = []
        for _ in range(CALLS):
            if rng.random() < 0.1:
                os.truncate(f"{host.folder}/x.img", rng.choice([1, 2, 3]) * MIB)
            method, params = some_call(rng, host.folder)
            try:
                host.call(method, **params)
                done.append((method, params))
            except RpcError:
                pass
        # A rescan or a restart takes over the size of a file.
        for bdev in host.call("bdev_get_bdevs"):
            if "aio" in bdev["driver_specific"]:
                host.call("bdev_aio_rescan", name=bdev["name"])
        before = state_of(host)
        for end in (host.stop, host.kill):
            end()
            try:
                host.start(*flags)
            except AssertionError as error:
                raise AssertionError(f"after {done}: {error}") from None
            self.assertEqual(state_of(host), before, done)

    def test_a_filter_that_waits_for_its_base_keeps_its_name_and_uuid(self):
        flags = lambda host: ("--state", f"{host.folder}/state.json")
        with Host() as host:
            host.stop()
            host.start(*flags(host))
            host.call("bdev_passthru_create", name="X", base_bdev_name="A", uuid=UUIDS[0])
            disk = {"num_blocks": 8, "block_size": 512}
            self.assertEqual(host.refused("bdev_null_create", name="X", **disk).code, -17)
            self.assertEqual(host.refused("bdev_malloc_create", name="Y", uuid=UUIDS[0], **disk).code, -17)
            self.assertEqual(host.refused("bdev_passthru_create", name="X", base_bdev_name="B").code, -17)
            host.call("bdev_null_create", name="A", **disk)
            self.assertEqual(host.call("bdev_get_bdevs", name="X")[0]["uuid"], UUIDS[0])
            # The base is deleted, but the filter's name stays taken.
            host.call("bdev_null_delete", name="A")
            self.assertEqual(host.refused("bdev_null_create", name="X", **disk).code, -17)
            host.stop()
            host.start(*flags(host))
            host.call("bdev_passthru_delete", name="X")
            host.call("bdev_null_create", name="X", uuid=UUIDS[0], **disk)

    def test_the_state_is_loaded_by_methods_that_clients_may_not_call(self):
        with Host() as host:
            host.stop()
            flags = ("--state", f"{host.folder}/state.json", "--rpcs-allowed",
                     "spdk_get_version,bdev_get_bdevs,bdev_null_create")
            host.start(*flags)
            host.call("bdev_null_create", name="n0", num_blocks=8, block_size=512)
            host.stop()
            host.start(*flags)
            self.assertEqual([bdev["name"] for bdev in host.call("bdev_get_bdevs")], ["n0"])
            self.assertEqual(host.refused("bdev_null_delete", name="n0").code, -32601)


if __name__ == "__main__":
    unittest.main()
