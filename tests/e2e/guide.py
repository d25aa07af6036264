"""Runs the documents of docs/plugin-guide as scripts, and compares their output with the documents.

    ```sh run             the blocks of a document form one script, which runs in its own folder with `set -eu`
    ```sh kernel          runs on a machine with a Linux initiator: in a guest, where there is one (tests/guest);
                          otherwise it is left out, together with the `text expect` block that follows
    ```rust file=PATH     is written to PATH, below the script's folder at that place
    ```text expect        the output must contain each line, in any place; `…` matches anything
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

import vendor

FOLDER = f"{vendor.ROOT}/docs/plugin-guide"
BLOCK = re.compile(r"^```(\w+) (run|kernel|expect|file=(\S+))\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Seconds. Most of it is for building.
LIMIT = 900
# Asks the guest to run the block that is left out here, and waits for it.
KERNEL = 'touch "$KERNEL/ask{0}"; until [ -e "$KERNEL/said{0}" ]; do sleep 0.05; done'


class Document:
    """A document's script, the commands for its kernel, and the expected output of both."""

    def __init__(self, name, with_kernel=False):
        with open(f"{FOLDER}/{name}", encoding="utf-8") as f:
            blocks = BLOCK.findall(f.read())
        self.script, self.expected = ["set -eu"], []
        self.kernel, self.kernel_expected = [], []
        expected = self.expected
        for _, what, path, text in blocks:
            if what == "run":
                expected = self.expected
                # A new project would fetch new versions from a registry. It gets our lock file
                # instead.
                self.script.append(re.sub(r"^cd (\w+)$", r'cd \1; [ ! -e Cargo.toml ] || cp "$LOCK" .', text,
                                          flags=re.MULTILINE))
            elif what == "kernel":
                expected = self.kernel_expected
                self.kernel.append(text)
                if with_kernel:
                    self.script.append(KERNEL.format(len(self.kernel)))
            elif what == "expect":
                expected += text.splitlines()
            else:
                self.script.append(f"cat > {path} <<'END OF BLOCK'\n{text}END OF BLOCK")
        assert self.expected, "the document expects nothing"

    def run(self, port, attend=lambda: None, **env):
        """Runs the script in its own folder and returns its output. It calls `attend` while the script runs."""
        folder = tempfile.mkdtemp(prefix="drivebay-test.")
        try:
            return self.run_in(folder, attend, {"PORT": str(port), **env})
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def run_in(self, folder, attend, env):
        programs = os.path.dirname(os.environ["DRIVEBAY_BIN"])
        env = {**vendor.cargo_env(), "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": folder,
               "LOCK": f"{vendor.ROOT}/Cargo.lock", "DRIVEBAY_SDK_C": vendor.SDK_C,
               "DRIVEBAY_PLUGINS": os.environ["DRIVEBAY_PLUGIN_DIR"], **env}
        with open(f"{folder}/output", "w+", encoding="utf-8") as output:
            shell = subprocess.Popen(["bash", "-c", "\n".join(self.script)], cwd=folder, stdin=subprocess.DEVNULL,
                                     stdout=output, stderr=output, start_new_session=True, env=env)
            try:
                end = time.monotonic() + LIMIT
                while shell.poll() is None and time.monotonic() < end:
                    attend()
                    time.sleep(0.05)
            finally:
                try:
                    os.killpg(shell.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                shell.wait()
            output.seek(0)
            text = output.read()
        assert shell.returncode == 0, f"status {shell.returncode}\n{text}"
        return text


def expect(test, expected, output):
    for line in expected:
        test.assertRegex(output, ".*".join(re.escape(part) for part in line.strip().split("…")))
