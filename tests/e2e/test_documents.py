"""The commands in the documents work as written."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from host import Host, free_port

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def drivebay(*args, **kwargs):
    return subprocess.run([os.environ["DRIVEBAY_BIN"], *args], capture_output=True, text=True, timeout=60, **kwargs)


def end_group(shell):
    """Ends background processes that the shell left running."""
    try:
        os.killpg(shell.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    shell.wait()


class Readme(unittest.TestCase):
    """Runs the shell block under "Five minutes" line by line as printed. It leaves out the build, uses a free port
    instead of 4420, and leaves out the initiator, which needs a kernel and root."""

    # The printed text, and the text to run instead. Each must be in the document.
    INSTEAD = [
        ("cargo build --release --workspace\n", ""),
        ("$PWD/target/release:$PATH", "$(dirname $DRIVEBAY_BIN):$PATH"),
        ("$(mktemp -d)", "$FOLDER"),
        ("target/release", "$DRIVEBAY_PLUGIN_DIR"),
        ('"4420"', '"PORT"'),
    ]

    def script(self, port):
        with open(f"{TOP}/README.md", encoding="utf-8") as readme:
            section = readme.read().split("## Five minutes", 1)[1]
        block = re.search(r"```sh\n(.*?)```", section, re.DOTALL).group(1)
        for there, here in self.INSTEAD:
            self.assertIn(there, block)
            block = block.replace(there, here)
        lines = block.replace("PORT", str(port)).splitlines()
        kept = [line for line in lines if not line.startswith("nvme connect ")]
        self.assertEqual(len(lines) - len(kept), 1, "one line of it is for the initiator")
        return "\n".join(["set -eu", *kept, "drivebay rpc nvmf_get_subsystems", "kill $!; wait $!"])

    def test_the_five_minutes_work_as_written(self):
        folder, port = tempfile.mkdtemp(prefix="drivebay-test."), free_port()
        try:
            with open(f"{folder}/output", "w+", encoding="utf-8") as output:
                shell = subprocess.Popen(
                    ["bash", "-c", self.script(port)], cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=output, start_new_session=True, env={**os.environ, "FOLDER": folder})
                try:
                    shell.wait(60)
                finally:
                    end_group(shell)
                output.seek(0)
                output = output.read()
            self.assertEqual(shell.returncode, 0, output)
            self.assertIn("nqn.2026-01.io.drivebay:one", output)
            self.assertIn(f'"trsvcid": "{port}"', output)
            self.assertIn('"bdev_name": "Pass0"', output)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class MethodHelp(unittest.TestCase):
    def test_help_of_a_method_needs_no_host(self):
        told = drivebay("rpc", "-r", "/nonexistent/socket", "bdev_null_resize", "--help")
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertIn("new_size (integer, 1 to 8796093022207; required)", told.stdout)

    def test_an_error_for_parameters_that_are_not_json_says_what_they_must_look_like(self):
        told = drivebay("rpc", "bdev_null_delete", "name=x")
        self.assertEqual(told.returncode, 2)
        self.assertIn("""allowed: all parameters as one JSON object, such as '{"name":"x"}'""", told.stderr)

    def test_completion_knows_the_methods_of_plugins_too(self):
        told = drivebay("completions", "bash")
        self.assertEqual(told.returncode, 0, told.stderr)
        for method in ("bdev_get_bdevs", "bdev_malloc_create", "nvmf_create_subsystem"):
            self.assertIn(method, told.stdout)

    def test_the_host_prints_the_help_of_a_method_and_loads_its_plugin_for_it(self):
        with Host() as host:
            told = drivebay("rpc", "-r", host.socket, "bdev_null_resize", "--help")
            self.assertEqual(told.returncode, 0, told.stderr)
            self.assertIn("new_size (integer, 1 to 8796093022207; required)", told.stdout)
            unknown = drivebay("rpc", "-r", host.socket, "bdev_nil_resize", "--help")
            self.assertEqual(unknown.returncode, 1)
            self.assertIn("method", unknown.stderr)
            document = host.call("rpc.discover")
            described = {method["name"] for method in document["methods"]}
            self.assertIn("bdev_null_resize", described)
            self.assertNotIn("bdev_malloc_create", described, "its plugin is not loaded")

    def test_what_is_not_allowed_is_not_described(self):
        with Host("--rpcs-allowed", "spdk_get_version,rpc_describe,rpc.discover") as host:
            self.assertEqual(host.refused("rpc_describe", method="bdev_get_bdevs").code, -22)
            described = [method["name"] for method in host.call("rpc.discover")["methods"]]
            self.assertEqual(described, ["rpc.discover", "rpc_describe", "spdk_get_version"])
