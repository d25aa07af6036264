"""A guest that moves from one QEMU to another under verified load, its disk served to both by the host under test."""

import json
import os
import re
import shlex
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import guest as harness
from guest import CACHE, CMDLINE, HERE, die_with_parent, libraries, soak_only
from host import Host
from test_nvme_tcp import file_disk

# In seconds. The limit is long, because two emulated machines on a busy computer are slow.
LIMIT = 240


def initramfs(kernel, folder):
    """busybox, fio with its libraries, and the modules of the disk: the path of an archive."""
    fio = subprocess.run(["which", "fio"], capture_output=True, text=True, check=True).stdout.strip()
    files = {"bin/busybox": harness.read(harness.find_busybox(CACHE)), "usr/bin/fio": harness.read(fio),
             "init": harness.read(f"{HERE}/scripts/migrating_init")}
    files.update({path.lstrip("/"): harness.read(path) for path in libraries(fio)})
    order = []
    for path in harness.module_order(f"{kernel}/modules", ["virtio_pci", "virtio_blk"]):
        data, name = harness.read(f"{kernel}/modules/{path}"), os.path.basename(path)
        if name.endswith(".xz"):
            data, name = harness.lzma.decompress(data), name.removesuffix(".xz")
        order.append(name)
        files[f"modules/{name}"] = data
    files["modules.order"] = "\n".join(order).encode()
    folders = {"dev", "proc", "sys"}
    for path in files:
        while path := os.path.dirname(path):
            folders.add(path)
    parts = [harness.cpio_entry(name, 0o040755) for name in sorted(folders)]
    parts += [harness.cpio_entry(name, 0o100755, data) for name, data in files.items()]
    parts.append(harness.cpio_entry("TRAILER!!!", 0))
    out = f"{folder}/initramfs.cpio"
    with open(out, "wb") as f:
        f.write(b"".join(parts))
    return out


class Machine:
    """One QEMU, with its console and its control socket."""

    def __init__(self, name, folder, kernel, initrd, disk, *arguments):
        console, control = f"{folder}/{name}.console", f"{folder}/{name}.qmp"
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,la57=off", "-m", "512M",
                   "-kernel", f"{kernel}/vmlinux", "-initrd", initrd, "-append", CMDLINE]
        command += shlex.split("-machine q35,memory-backend=mem -object memory-backend-memfd,id=mem,size=512M,share=on")
        command += shlex.split(f"-chardev socket,id=console,path={console},server=on,wait=off -serial chardev:console "
                               f"-qmp unix:{control},server=on,wait=off -chardev socket,id=c0,path={disk} "
                               "-device vhost-user-blk-pci,chardev=c0,num-queues=1")
        self.process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        self.text = ""
        self.console = self.connect(console)
        threading.Thread(target=self.listen, daemon=True).start()
        self.control = self.connect(control).makefile("rw")
        self.control.readline()
        self.ask("qmp_capabilities")

    def connect(self, path):
        end = time.monotonic() + LIMIT
        while True:
            try:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(path)
                return connection
            except OSError:
                connection.close()
                assert self.process.poll() is None and time.monotonic() < end, f"{path}: QEMU does not listen"
                time.sleep(0.05)

    def listen(self):
        while more := self.console.recv(4096):
            self.text += more.decode(errors="replace")

    def ask(self, command, **arguments):
        """The answer of QEMU; events are skipped."""
        self.control.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.control.flush()
        while True:
            answer = json.loads(self.control.readline())
            assert "error" not in answer, f"{command}: {answer}"
            if "return" in answer:
                return answer["return"]

    def wait_for(self, pattern):
        end = time.monotonic() + LIMIT
        while not (found := re.search(pattern, self.text)):
            assert self.process.poll() is None or re.search(pattern, self.text), f"QEMU has ended:\n{self.text}"
            assert time.monotonic() < end, f"no {pattern} on the console:\n{self.text}"
            time.sleep(0.1)
        return found

    def end(self):
        self.process.kill()
        self.process.wait()


class Migration(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="drivebay-guest.")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.kernel = os.path.realpath(f"{CACHE}/current")

    def machine(self, name, host, *arguments):
        disk = f"{host.folder}/{name}.sock"
        machine = Machine(name, self.folder, self.kernel, self.initrd, disk, *arguments)
        self.addCleanup(machine.end)
        return machine

    @soak_only
    def test_a_guest_migrates_live_under_verified_load_and_loses_nothing(self):
        self.initrd = initramfs(self.kernel, self.folder)
        host = Host()
        host.flags = ("-S", host.folder)
        with host:
            bdev, _ = file_disk(host)
            for name in ("from", "to"):
                host.call("vhost_create_blk_controller", ctrlr=f"{name}.sock", dev_name=bdev)
            source = self.machine("from", host)
            source.wait_for("runs 1")
            uri = f"unix:{self.folder}/migration"
            target = self.machine("to", host, "-incoming", uri)
            source.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 30, "downtime-limit": 1000})
            source.ask("migrate", uri=uri)
            end = time.monotonic() + LIMIT
            while (state := source.ask("query-migrate"))["status"] != "completed":
                assert state["status"] not in ("failed", "cancelled"), state
                assert time.monotonic() < end, state
                time.sleep(0.2)
            before = int(re.findall(r"runs (\d+)", source.text)[-1])
            self.assertNotIn("load", source.text, source.text)
            # Wait until two more runs of the load have begun and ended on the other machine.
            target.wait_for(f"runs {before + 3}")
            target.console.sendall(b"stop\n")
            target.wait_for("load ended")
            self.assertNotRegex(target.text, "load failed|I/O error|critical")
            sessions = {one["ctrlr"]: one["sessions"] for one in host.call("vhost_get_controllers")}
            self.assertTrue(sessions["from.sock"], "the source is still connected")


if __name__ == "__main__":
    unittest.main()
