"""The host under test: `drivebay serve` in its own folder, and RPC calls to it in plain Python.

    with Host() as host:
        host.call("bdev_malloc_create", name="m0", num_blocks=8, block_size=512)

The environment names the program and its plugins: DRIVEBAY_BIN, DRIVEBAY_PLUGIN_DIR.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

# Seconds. A host that takes longer fails the test. The limit allows for a busy machine.
START_LIMIT = 20
CALL_LIMIT = 30
STOP_LIMIT = 20


class RpcError(Exception):
    """The host answered with an error: its code, message and data."""

    def __init__(self, method, error):
        super().__init__(f"{method}: {error.get('code')} {error.get('message')}")
        self.code = error.get("code")
        self.message = error.get("message")
        self.data = error.get("data")


class Host:
    """One runtime folder with at most one running host. `with` removes everything at the end."""

    def __init__(self, *flags, plugin_dir=None):
        self.folder = tempfile.mkdtemp(prefix="drivebay-test.")
        self.socket = f"{self.folder}/rpc.sock"
        self.log_path = f"{self.folder}/log"
        self.flags = flags
        self.plugin_dir = plugin_dir or os.environ["DRIVEBAY_PLUGIN_DIR"]
        self.process = None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, kind, error, trace):
        try:
            if kind is not None:
                print(f"-- the host's log:\n{self.log()}", flush=True)
                self.kill()
            elif self.process is not None:
                self.stop()
        finally:
            self.remove()

    def remove(self):
        """Ends the host if it still runs, and removes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- the process --------------------------------------------------------------------------

    def start(self, *flags, log=None, environment=None, before=None, within=()):
        """Starts the host and waits until it answers. The parameters are for this start only: flags, a descriptor for
        its log, further environment, a function that its process calls first, a command that runs it."""
        assert self.process is None, "the host runs already"
        command = [*within, os.environ["DRIVEBAY_BIN"], "serve", "-r", self.socket,
                   "--plugin-dir", self.plugin_dir, *self.flags, *flags]
        env = {**os.environ, "DRIVEBAY_RUNTIME": self.folder, **(environment or {})}
        with open(self.log_path, "ab") as own:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=own, stderr=log or own,
                                            env=env, preexec_fn=before)
        end = time.monotonic() + START_LIMIT
        while True:
            try:
                self.call("spdk_get_version")
                return self
            except (OSError, EOFError) as error:
                status = self.process.poll()
                if status is not None:
                    self.process = None
                    raise AssertionError(f"the host ended with status {status}:\n{self.log()}") from error
                if time.monotonic() > end:
                    raise AssertionError(f"no answer within {START_LIMIT} s:\n{self.log()}") from error
                time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        """Asks the host to stop (SIGTERM) and expects a clean end within STOP_LIMIT."""
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            status = process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the host did not end within {STOP_LIMIT} s:\n{self.log()}") from None
        assert status == 0, f"the host ended with status {status}:\n{self.log()}"

    def kill(self):
        """Sends SIGKILL, so the host cannot write anything or close connections."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log(self, lines=60):
        """The last lines of the log. A separate thread of the host writes it, so this waits until the log stops
        growing."""
        size = -1
        for _ in range(40):
            if size == (size := os.path.getsize(self.log_path)):
                break
            time.sleep(0.05)
        with open(self.log_path, errors="replace") as log:
            return "".join(log.readlines()[-lines:])

    # ---- RPC ----------------------------------------------------------------------------------

    def call(self, method, /, **params):
        """Makes one call on its own connection and returns the result. Raises RpcError if the host answers with an
        error."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params:
            request["params"] = params
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CALL_LIMIT)
            connection.connect(self.socket)
            connection.sendall(json.dumps(request).encode())
            answer = read_value(connection, method)
        assert answer.get("id") == 1, f"{method}: answer to another request: {answer}"
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]

    def refused(self, method, /, **params):
        """Makes a call that must fail and returns its RpcError."""
        try:
            result = self.call(method, **params)
        except RpcError as error:
            return error
        raise AssertionError(f"{method} must be refused, but answered {result}")

    # ---- what many tests set up ---------------------------------------------------------------

    def export(self, bdev, nqn="nqn.2026-01.io.drivebay:test", port=None, serial="TEST"):
        """Exports a subsystem with one namespace at a listener on loopback. Returns (nqn, port)."""
        if not self.call("nvmf_get_transports"):
            self.call("nvmf_create_transport", trtype="TCP")
        port = port or free_port()
        self.call("nvmf_create_subsystem", nqn=nqn, allow_any_host=True, serial_number=serial)
        self.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": bdev})
        self.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address(port))
        return nqn, port


def address(port, traddr="127.0.0.1"):
    """An NVMe/TCP listen address."""
    family = "IPv6" if ":" in traddr else "IPv4"
    return {"trtype": "TCP", "adrfam": family, "traddr": traddr, "trsvcid": str(port)}


def free_port():
    """A TCP port without a listener at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_value(connection, method):
    """Reads until one JSON value is complete, because the protocol has no other framing."""
    text = b""
    while True:
        more = connection.recv(1 << 16)
        if not more:
            raise EOFError(f"{method}: the host closed the connection after {text!r}")
        text += more
        try:
            return json.loads(text)
        except ValueError:
            continue
