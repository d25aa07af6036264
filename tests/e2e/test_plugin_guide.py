"""docs/plugin-guide does what it says: its blocks of shell are run as they stand, and print what it tells.

    ```sh run             one script a document, in a folder of its own, with `set -eu`
    ```rust file=PATH     is written to PATH, below the script's folder at that place
    ```text expect        each line must stand in the output, in any place; `…` stands for anything
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import vendor
from host import free_port

GUIDE = f"{vendor.ROOT}/docs/plugin-guide"
BLOCK = re.compile(r"^```(\w+) (run|expect|file=(\S+))\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Seconds; building is most of it.
LIMIT = 900


class PluginGuide(unittest.TestCase):
    def run_document(self, name, wants_sdk=True):
        with open(f"{GUIDE}/{name}", encoding="utf-8") as f:
            blocks = BLOCK.findall(f.read())
        script, expected = ["set -eu"], []
        for _, what, path, text in blocks:
            if what == "run":
                # What a new project would take from a registry is what we are locked to.
                script.append(re.sub(r"^cd (\w+)$", r'cd \1; [ ! -e Cargo.toml ] || cp "$LOCK" .', text, flags=re.MULTILINE))
            elif what == "expect":
                expected += text.splitlines()
            else:
                script.append(f"cat > {path} <<'END OF BLOCK'\n{text}END OF BLOCK")
        self.assertTrue(expected, "the document expects nothing")
        output = self.shell("\n".join(script), wants_sdk)
        for line in expected:
            pattern = ".*".join(re.escape(part) for part in line.strip().split("…"))
            self.assertRegex(output, pattern)

    def shell(self, script, wants_sdk):
        folder = tempfile.mkdtemp(prefix="drivebay-test.")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        programs = os.path.dirname(os.environ["DRIVEBAY_BIN"])
        env = {**vendor.cargo_env(), "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": folder,
               "LOCK": f"{vendor.ROOT}/Cargo.lock", "DRIVEBAY_SDK": vendor.sdk() if wants_sdk else "",
               "DRIVEBAY_SDK_C": vendor.SDK_C, "DRIVEBAY_PLUGINS": os.environ["DRIVEBAY_PLUGIN_DIR"],
               "PORT": str(free_port())}
        with open(f"{folder}/output", "w+", encoding="utf-8") as output:
            shell = subprocess.Popen(["bash", "-c", script], cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                                     stderr=output, start_new_session=True, env=env)
            try:
                shell.wait(LIMIT)
            finally:
                try:
                    os.killpg(shell.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                shell.wait()
            output.seek(0)
            text = output.read()
        self.assertEqual(shell.returncode, 0, text)
        return text

    def test_a_bdev_in_ten_minutes(self):
        self.run_document("bdev-in-ten-minutes.md")

    def test_a_filter_the_whole_way_in_rust(self):
        self.run_document("filter.md")

    def test_a_bdev_and_a_filter_the_whole_way_in_c(self):
        self.run_document("in-c.md", wants_sdk=False)

    def test_a_transport(self):
        self.run_document("transport.md")

    def test_shipping(self):
        self.run_document("shipping.md", wants_sdk=False)


if __name__ == "__main__":
    unittest.main()
