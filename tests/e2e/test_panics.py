"""A plugin that panics at every place where the host calls it: only that plugin fails. See tests/panics."""

import json
import threading
import time
import unittest

import vendor
from host import Host
from test_nbd import READ, WRITE, Client

LIMIT = 30
MIB = 1 << 20
# Places where a disk panics, and the calls that reach them. The I/O comes over NBD.
OF_DISKS = ("create", "open_channel", "submit", "held", "joined", "flush", "poll", "end", "write_config", "driver_specific",
            "drop")
# Places where the plugin itself panics.
OF_PLUGIN = ("method", "message", "task", "timer", "later", "worker", "examine", "save_config")


def until(what, condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Load(threading.Thread):
    """Writes to another disk and reads back, again and again."""

    def __init__(self, path, name):
        super().__init__(daemon=True)
        self.path, self.name = path, name
        self.rounds, self.error, self.ended = 0, None, threading.Event()

    def run(self):
        try:
            with Client(self.path) as client:
                client.go(self.name)
                while not self.ended.is_set():
                    place = self.rounds % 16 * 65536
                    data = bytes((self.rounds * 7 + i) & 0xFF for i in range(256)) * 256
                    client.request(WRITE, place, len(data), data)
                    assert client.reply() == (0, b""), "a write failed"
                    client.request(READ, place, len(data))
                    assert client.reply(len(data)) == (0, data), "the data read is not the data written"
                    self.rounds += 1
        except Exception as error:  # `check` reports it
            self.error = error

    def check(self):
        """Checks that the other disk continues."""
        before = self.rounds
        until("the other disk does not continue", lambda: self.error or self.rounds > before + 1)
        assert self.error is None, self.error


class Panics(unittest.TestCase):
    def setUp(self):
        self.host = Host()
        self.addCleanup(self.host.remove)
        self.state = f"{self.host.folder}/state.json"
        self.host.start("--state", self.state)
        self.path = f"{self.host.folder}/nbd.sock"
        self.host.call("nbd_create_server", name="s0", path=self.path)
        for name in ("Good", "Base"):
            self.host.call("bdev_malloc_create", name=name, num_blocks=4096, block_size=512)
        self.host.call("nbd_server_add_export", server="s0", bdev_name="Good")
        self.load = Load(self.path, "Good")
        self.load.start()

    def plugin(self, name="panics"):
        """The plugin's entry in the list, without those of its earlier instances."""
        [plugin] = [plugin for plugin in self.host.call("plugin_list") if plugin["name"] == name]
        return plugin

    def check_failed(self, place, name="panics"):
        until(f"{place}: the plugin is not listed as failed", lambda: self.plugin(name)["state"] == "failed")
        self.assertRegex(self.plugin(name)["reason"], rf"^it panicked: .*lib\.rs:\d+:\d+: told to panic in {place}$")
        self.load.check()

    def check_disk_has_failed(self, place):
        """The disk answers with errors, and the plugin's own method deletes it."""
        self.assertIn("Bad", [bdev["name"] for bdev in self.host.call("bdev_get_bdevs")])
        error = self.host.refused("bdev_panics_create", name="Another", at="nowhere")
        self.assertEqual(error.code, -5)
        self.assertIn(f"plugin panics has failed: it panicked", error.message)
        self.assertNotEqual(self.read("Bad"), 0, f"{place}: a disk of a failed plugin was read")
        self.assertIn("bdev_panics_create", json.dumps(self.host.call("framework_get_config", name="bdev")))
        self.assertTrue(self.host.call("bdev_panics_delete", name="Bad"))
        self.assertNotIn("Bad", [bdev["name"] for bdev in self.host.call("bdev_get_bdevs")])

    def again(self):
        """Unloads the plugin and loads it again."""
        self.assertTrue(self.host.call("plugin_unload", name="panics"))
        self.host.call("plugin_load", name="panics")
        self.assertEqual(self.plugin()["state"], "serving")

    def read(self, name):
        """Reads from the disk and returns the NBD error. The answer must arrive in time."""
        try:
            with Client(self.path) as client:
                client.go(name)
                client.request(READ, 0, 4096)
                return client.reply(4096)[0]
        except (EOFError, ConnectionError, AssertionError):
            return -1

    def bring_to(self, place):
        """Creates a disk that panics at a place, and does what reaches that place."""
        if place == "create":
            self.host.refused("bdev_panics_create", name="Bad", at=place)
            return
        base = {"base": "Base"} if place == "joined" else {}
        self.host.call("bdev_panics_create", name="Bad", at=place, **base)
        self.host.call("nbd_server_add_export", server="s0", bdev_name="Bad")
        if place in ("open_channel", "submit", "joined", "flush", "poll"):
            self.read("Bad")
        elif place == "held":
            reader = threading.Thread(target=lambda: self.answers.append(self.read("Bad")))
            self.answers = []
            reader.start()
            until("the read has not reached the disk", lambda: self.held() == 1)
            self.host.refused("panics_run", at="method")
            reader.join(LIMIT)
            self.assertEqual(len(self.answers), 1, "the I/O that the plugin held did not end")
            self.assertNotEqual(self.answers[0], 0)
        elif place == "driver_specific":
            self.host.call("bdev_get_bdevs")
        elif place == "write_config":
            self.host.call("framework_get_config", name="bdev")
        elif place in ("end", "drop"):
            error = self.host.refused("bdev_panics_delete", name="Bad")
            self.assertIn(f"told to panic in {place}", error.message)
            self.assertNotIn("Bad", [bdev["name"] for bdev in self.host.call("bdev_get_bdevs")])

    def held(self):
        [bdev] = self.host.call("bdev_get_bdevs", name="Bad")
        return bdev["driver_specific"]["held"]

    def test_a_panic_anywhere_fails_the_plugin_alone(self):
        self.host.call("plugin_load", name="panics")
        for place in OF_DISKS:
            with self.subTest(place):
                self.bring_to(place)
                self.check_failed("method" if place == "held" else place)
                if place not in ("create", "end", "drop"):
                    self.check_disk_has_failed(place)
                self.again()
        for place in OF_PLUGIN:
            with self.subTest(place):
                self.host.call("bdev_panics_create", name="Bad", at="nowhere")
                self.host.call("nbd_server_add_export", server="s0", bdev_name="Bad")
                self.assertEqual(self.read("Bad"), 0)
                if place == "later":
                    self.host.refused("panics_later", at=place)
                elif place == "method":
                    self.host.refused("panics_run", at=place)
                else:
                    self.host.call("panics_run", at=place)
                if place == "examine":
                    self.host.call("bdev_malloc_create", name="New", num_blocks=4096, block_size=512)
                    self.host.call("bdev_wait_for_examine")
                elif place == "save_config":
                    self.host.call("framework_get_config", name="bdev")
                self.check_failed(place)
                self.check_disk_has_failed(place)
                self.again()
        failed = [event["ctx"] for event in self.host.call("notify_get_notifications") if event["type"] == "plugin_failed"]
        self.assertEqual(len(failed), len(OF_DISKS) + len(OF_PLUGIN))
        self.finish()

    def test_a_panic_in_a_message_to_a_channel_fails_the_plugin_alone(self):
        self.host.call("bdev_panics_create", name="Bad", at="nowhere")
        self.host.call("nbd_server_add_export", server="s0", bdev_name="Bad")
        with Client(self.path) as client:
            client.go("Bad")
            client.request(READ, 0, 4096)
            self.assertEqual(client.reply(4096)[0], 0)
            # The client keeps the channel open.
            self.host.call("panics_run", at="channel")
            self.check_failed("channel")
        self.check_disk_has_failed("channel")
        self.again()
        self.finish()

    def transports(self):
        return [transport["trtype"] for transport in self.host.call("nvmf_get_transports")]

    def connection(self, place):
        """A connection of a fabric panics. The target's other fabric continues, and the host ends in time."""
        for trtype in ("TCP", "PANICS"):
            self.host.call("nvmf_create_transport", trtype=trtype)
        nqn, port = self.host.export("Base")
        self.host.call("panics_connect", at=place)
        self.check_failed(place, "panics-fabric")
        vendor.verify_over_tcp(port, nqn, MIB)
        self.assertTrue(self.host.call("plugin_unload", name="panics-fabric"))
        until("the target still has the transport", lambda: "PANICS" not in self.transports())
        self.host.call("nvmf_create_transport", trtype="PANICS")
        self.assertTrue(self.host.call("panics_connect", at="nowhere"))
        self.finish()

    def test_a_panic_while_a_connection_is_added_fails_the_fabric_alone(self):
        self.connection("add")

    def test_a_panic_while_a_connection_is_polled_fails_the_fabric_alone(self):
        self.connection("poll")

    def test_a_panic_when_a_connection_gets_its_answer_fails_the_fabric_alone(self):
        self.connection("completed")

    def test_a_plugin_that_panics_while_it_stops_is_ended(self):
        self.host.call("plugin_load", name="panics")
        self.host.call("panics_run", at="stop")
        self.host.call("plugin_unload", name="panics")
        self.host.call("plugin_load", name="panics")
        self.finish()

    def test_the_disks_of_a_failed_plugin_are_back_after_a_restart(self):
        self.host.call("bdev_panics_create", name="Bad", at="nowhere")
        self.host.refused("panics_run", at="method")
        self.check_failed("method")
        # Another change makes the host write the state.
        self.host.call("bdev_malloc_create", name="Later", num_blocks=4096, block_size=512)
        self.finish()
        self.host.start("--state", self.state)
        names = [bdev["name"] for bdev in self.host.call("bdev_get_bdevs")]
        self.assertEqual(sorted(names), ["Bad", "Base", "Good", "Later"])
        self.assertEqual(self.plugin()["state"], "serving")
        self.host.stop()

    def finish(self):
        self.load.check()
        self.load.ended.set()
        self.load.join(LIMIT)
        self.assertIsNone(self.load.error)
        self.host.stop()


if __name__ == "__main__":
    unittest.main()
