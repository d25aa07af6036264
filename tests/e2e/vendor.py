"""What a vendor and an operator do with a plugin: build it by `cc` or cargo, load it, put load on it."""

import os
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
SDK_C = f"{ROOT}/sdk/c"
EXAMPLES = f"{SDK_C}/examples"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror")


def run(*command, **options):
    """What a command prints; AssertionError with all of it when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}"
    return done.stdout


def drivebay(*args, **options):
    return run(os.environ["DRIVEBAY_BIN"], *args, **options)


def compile_c(source, to, *flags, compiler="cc"):
    """A plugin from one C file; returns where it is."""
    run(compiler, "-shared", "-fPIC", "-O2", *STRICT, *(flags or ("-I", SDK_C)), "-o", to, source)
    return to


def plugin_dir(folder, *files):
    """A plugin folder with the host's own plugins and these files."""
    made = f"{folder}/plugins"
    os.makedirs(made, exist_ok=True)
    own = os.environ["DRIVEBAY_PLUGIN_DIR"]
    for name in os.listdir(own):
        if name.endswith(".so") and not os.path.lexists(f"{made}/{name}"):
            os.symlink(f"{own}/{name}", f"{made}/{name}")
    for file in files:
        shutil.copy(file, made)
    return made


def verify_over_tcp(port, nqn, size):
    """Writes and reads back a served disk with our own initiator."""
    tasks = os.path.join(os.path.dirname(os.environ["DRIVEBAY_BIN"]), "drivebay-xtask")
    text = run(tasks, "verify", f"127.0.0.1:{port}", nqn, str(size))
    assert f"{size} bytes written" in text, text
