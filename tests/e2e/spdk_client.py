"""PyPI's `spdk` client, unmodified. It runs its program `spdk-rpc` in server mode and sends it one line for each call.

The environment variable SPDK_RPC has the program's path.
"""

import json
import os
import subprocess
import threading

# Seconds that an answer may take.
LIMIT = 30


class Refused(AssertionError):
    """The host or the client refused a call. The text is what the client printed."""


class Client:
    """One client process. A call is the line that a user would type after `spdk-rpc`."""

    def __init__(self, socket):
        self.socket = socket
        self.process = subprocess.Popen(
            [os.environ["SPDK_RPC"], "--server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def call(self, line):
        """Returns the client's output: parsed if it is JSON, else as text. Raises Refused if it reports an error."""
        watchdog = threading.Timer(LIMIT, self.process.kill)
        watchdog.start()
        try:
            self.process.stdin.write(f"-s {self.socket} {line}\n")
            self.process.stdin.flush()
            text = ""
            while True:
                more = self.process.stdout.readline()
                if not more:
                    raise Refused(f"{line}: no answer within {LIMIT} s, or the client broke:\n{text}")
                if more.startswith("**STATUS="):
                    break
                text += more
        finally:
            watchdog.cancel()
        if more.strip() != "**STATUS=0":
            raise Refused(f"{line}:\n{text}")
        try:
            return json.loads(text)
        except ValueError:
            return text.strip()


def run(socket, *args, stdin=None):
    """Runs the program once, as for save_config and load_config. Returns its output."""
    done = subprocess.run([os.environ["SPDK_RPC"], "-s", socket, *args], input=stdin or "", text=True,
                          capture_output=True, timeout=60)
    if done.returncode != 0:
        raise Refused(f"spdk-rpc {' '.join(args)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
