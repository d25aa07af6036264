"""The steps of a vendor and an operator with a plugin: build it by `cc` or cargo, load it, run I/O on it."""

import fcntl
import os
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
SDK_C = f"{ROOT}/sdk/c"
EXAMPLES = f"{SDK_C}/examples"
TARGET = os.path.join(os.path.dirname(os.path.dirname(os.environ.get("DRIVEBAY_BIN", f"{ROOT}/target/debug/drivebay"))),
                      "vendor")
SDK = f"{TARGET}/sdk"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror")


def run(*command, **options):
    """Runs a command and returns its output. If it fails, AssertionError has the whole output."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}"
    return done.stdout


def drivebay(*args, **options):
    return run(os.environ["DRIVEBAY_BIN"], *args, **options)


def compile_c(source, to, *flags, compiler="cc"):
    """Builds a plugin from one C file and returns its path."""
    run(compiler, "-shared", "-fPIC", "-O2", *STRICT, *(flags or ("-I", SDK_C)), "-o", to, source)
    return to


def plugin_dir(folder, *files):
    """Makes a plugin folder with the host's own plugins and these files."""
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
    """Writes a served disk with our own initiator and reads it back."""
    tasks = os.path.join(os.path.dirname(os.environ["DRIVEBAY_BIN"]), "drivebay-xtask")
    text = run(tasks, "verify", f"127.0.0.1:{port}", nqn, str(size))
    assert f"{size} bytes written" in text, text


def sdk():
    """The SDK as it is packaged for others, unpacked. It is made once in a run, and reused as long as it is
    unchanged."""
    if not sdk.is_made:
        os.makedirs(TARGET, exist_ok=True)
        # Several tests run at once, each in a process of its own.
        with open(f"{TARGET}/sdk.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unpack_sdk()
        sdk.is_made = True
    return SDK


sdk.is_made = False


def unpack_sdk():
    packages = f"{TARGET}/build/package"
    shutil.rmtree(packages, ignore_errors=True)
    crates = ("drivebay-plugin-api", "drivebay-spec-errno", "drivebay-spec-jsonrpc", "drivebay-sdk")
    run("cargo", "package", "--quiet", "--no-verify", "--allow-dirty", "--offline", "--exclude-lockfile",
        *(f"--package={crate}" for crate in crates), cwd=ROOT, env=cargo_env())
    files = sorted(f"{packages}/{name}" for name in os.listdir(packages) if name.endswith(".crate"))
    digest = run("sha256sum", *files)
    if os.path.exists(f"{SDK}/digest") and open(f"{SDK}/digest").read() == digest:
        return
    shutil.rmtree(SDK, ignore_errors=True)
    os.makedirs(SDK)
    for crate in files:
        # Files in a package have one fixed time. cargo decides by the time whether to build
        # again.
        run("tar", "--touch", "-xf", crate, "-C", SDK)
    with open(f"{SDK}/digest", "w") as f:
        f.write(digest)


def cargo_env():
    """One target folder for all projects, apart from this repository's. Nothing is fetched."""
    return {**os.environ, "CARGO_TARGET_DIR": f"{TARGET}/build", "CARGO_NET_OFFLINE": "true", "CARGO_INCREMENTAL": "0",
            "CARGO_PROFILE_DEV_DEBUG": "0", "DRIVEBAY": os.environ["DRIVEBAY_BIN"]}


def new(folder, name, kind, lang):
    """Makes a project by `drivebay plugin new` and returns its folder. The project uses our lock file."""
    project = f"{folder}/{name}"
    drivebay("plugin", "new", name, "--kind", kind, "--lang", lang, "--dir", project,
             *(("--sdk", sdk()) if lang == "rust" else ()))
    if lang == "rust":
        shutil.copy(f"{ROOT}/Cargo.lock", project)
    return project


def check(project, name, lang, *flags):
    """Runs the project's own `check`. Returns the built plugin and the output."""
    text = run("./check", *(("--debug",) if lang == "rust" else ()), *flags, cwd=project, env=cargo_env())
    return (f"{TARGET}/build/debug/lib{name}.so" if lang == "rust" else f"{project}/{name}.so"), text
