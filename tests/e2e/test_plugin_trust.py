"""Messages for the operator about plugins that may not be loaded, and about wrong keys and policies."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest

from host import Host, RpcError

PROGRAM = os.environ["DRIVEBAY_BIN"]
PLUGINS = os.environ["DRIVEBAY_PLUGIN_DIR"]
MALLOC = f"{PLUGINS}/libdrivebay_malloc.so"


class PluginTrust(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="drivebay-trust.")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name, text, mode=0o644):
        path = f"{self.folder}/{name}"
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def run_program(self, *arguments):
        """Runs the program. Returns its exit code, output and errors."""
        run = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120,
                             env={**os.environ, "DRIVEBAY_RUNTIME": self.folder})
        return run.returncode, run.stdout, run.stderr

    def refused(self, *arguments, part):
        code, _, told = self.run_program(*arguments)
        self.assertEqual(code, 1, told)
        self.assertIn(part, told)

    def test_who_made_a_plugin_and_under_which_licence_stands_in_its_file(self):
        for name in ("null", "nvmf_tcp"):
            code, told, _ = self.run_program("plugin", "inspect", f"{PLUGINS}/libdrivebay_{name}.so")
            self.assertEqual(code, 0)
            fields = dict(line.split(maxsplit=1) for line in told.splitlines() if len(line.split(maxsplit=1)) == 2)
            self.assertEqual((fields["vendor"], fields["licence"]), ("Drivebay", "Apache-2.0"))
            self.assertRegex(fields["build"], "^id +[0-9a-f]{40}$")
            self.assertIn("libc.so.6", fields["libraries"])

    def test_a_policy_that_is_wrong_ends_the_start_and_names_what_is_wrong(self):
        for text, mode, part in [
            (None, None, "--plugin-policy: cannot read"),
            ("{", 0o644, "EOF while parsing"),
            ('{"signature": "off"}', 0o644, "unknown field `signature`"),
            ('{"signatures": "maybe"}', 0o644, "unknown variant `maybe`"),
            ("{}", 0o666, "has mode 0666"),
        ]:
            path = f"{self.folder}/none" if text is None else self.write("policy.json", text, mode)
            for command in ("serve", "perf"):
                with self.subTest(part, command=command):
                    self.refused(command, "--plugin-policy", path, "--plugin-dir", PLUGINS, part=part)

    def test_a_call_whose_plugin_may_not_be_loaded_says_why(self):
        policy = self.write("policy.json", json.dumps({"deny": ["malloc"]}))
        with Host("--plugin-policy", policy) as host:
            with self.assertRaises(RpcError) as caught:
                host.call("bdev_malloc_create", name="m", num_blocks=8, block_size=512)
        self.assertIn("list `deny` names it", caught.exception.message)

    def test_perf_keeps_the_policy(self):
        policy = self.write("policy.json", json.dumps({"allow": ["null"]}))
        make = 'bdev_malloc_create {"name": "m", "num_blocks": 8, "block_size": 512}'
        self.refused("perf", "--plugin-policy", policy, "--plugin-dir", PLUGINS, "--rpc", make,
                     part="not in the plugin policy's list `allow`")

    def test_a_folder_that_others_may_write_is_named(self):
        open_to_all = f"{self.folder}/plugins"
        os.mkdir(open_to_all)
        shutil.copy(MALLOC, open_to_all)
        os.chmod(open_to_all, 0o777)
        with Host(plugin_dir=open_to_all) as host:
            with self.assertRaises(RpcError) as caught:
                host.call("plugin_load", name=f"{open_to_all}/libdrivebay_malloc.so")
        self.assertIn(f"{open_to_all}: has mode 0777", caught.exception.message)

    def test_group_writable_files_are_fine_in_the_private_group_of_their_owner(self):
        """umask 002 creates such files. `list`, `inspect`, `check` and loading agree about them."""
        folder = f"{self.folder}/plugins"
        os.mkdir(folder)
        os.chmod(folder, 0o775)
        for name in ("malloc", "null"):
            shutil.copy(f"{PLUGINS}/libdrivebay_{name}.so", folder)
            os.chmod(f"{folder}/libdrivebay_{name}.so", 0o664)
        file = f"{folder}/libdrivebay_null.so"
        for group, is_allowed in ((os.getgid(), True), (1, False)):
            with self.subTest(group=group):
                for each in (folder, *(f"{folder}/{name}" for name in os.listdir(folder))):
                    os.chown(each, -1, group)
                wrong = f"{folder}: has mode 0775"
                code, told, _ = self.run_program("plugin", "list", "--plugin-dir", folder)
                self.assertEqual(code, 0)
                self.assertEqual(told.count(wrong), 0 if is_allowed else 1, "one line for the folder, not one for each file")
                self.assertEqual(told.count("has mode"), told.count(wrong))
                _, told, _ = self.run_program("plugin", "inspect", file)
                self.assertEqual("may be loaded" in told, is_allowed, told)
                self.assertEqual(wrong in told, not is_allowed, told)
                code, told, errors = self.run_program("plugin", "check", file)
                self.assertEqual(code == 0, is_allowed, told + errors)
                with Host(plugin_dir=folder) as host:
                    if is_allowed:
                        host.call("plugin_load", name=file)
                    else:
                        self.assertIn(wrong, host.refused("plugin_load", name=file).message)

    def test_a_file_that_another_user_put_into_a_shared_folder_is_not_read(self):
        shared = f"{self.folder}/shared"
        os.mkdir(shared)
        os.chmod(shared, 0o1777)
        foreign = f"{shared}/libdrivebay_foreign.so"
        with open(foreign, "wb") as f:
            f.write(b"\x7fELF")
            f.truncate(1 << 40)
        os.chown(foreign, 65534, -1)
        _, told, _ = self.run_program("plugin", "list", "--plugin-dir", shared)
        self.assertIn(f"{foreign}: belongs to user 65534", told)
        with Host(plugin_dir=shared) as host:
            self.assertIn("belongs to user 65534", host.refused("plugin_load", name=foreign).message)

    def test_a_file_that_was_cut_to_nothing_is_reported_once(self):
        cut = self.write("libvendor_disk.so", "")
        with Host(plugin_dir=self.folder) as host:
            for _ in range(2):
                with self.assertRaises(RpcError) as caught:
                    host.call("bdev_vendor_create", name="v")
                self.assertEqual(caught.exception.code, -32601)
            told = [line for line in host.log(1000).splitlines() if cut in line]
            self.assertEqual(len(told), 1, told)
            self.assertIn("passed over: not a 64-bit ELF file", told[0])
            with self.assertRaises(RpcError) as caught:
                host.call("plugin_load", name="vendor-disk")
            (listed,) = [plugin for plugin in host.call("plugin_list") if plugin["path"] == cut]
        self.assertIn(f"{cut}: not a 64-bit ELF file", caught.exception.message)
        self.assertEqual((listed["name"], listed["state"]), ("libvendor_disk", "found"))
        self.assertIn("not a 64-bit ELF file", listed["reason"])
        _, told, _ = self.run_program("plugin", "list", "--plugin-dir", self.folder)
        self.assertRegex(told, rf"libvendor_disk +found +{cut}\n +not a 64-bit ELF file")

    def test_a_file_that_the_host_s_user_may_not_read_is_listed_with_the_reason(self):
        hidden = shutil.copy(MALLOC, self.folder)
        os.chmod(hidden, 0)
        os.chmod(self.folder, 0o755)
        # Root can read everything. So this runs as another user, who may not be able to reach the
        # program in the build folder.
        program = shutil.copy(PROGRAM, self.folder)
        user = {"user": 65534} if os.getuid() == 0 else {}
        run = subprocess.run([program, "plugin", "list", "--plugin-dir", self.folder], capture_output=True, text=True,
                             timeout=30, **user)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertRegex(run.stdout, rf"libdrivebay_malloc +found +{hidden}\n +cannot be read: Permission denied")

    def test_wrong_keys_are_reported(self):
        key, keys = f"{self.folder}/key", f"{self.folder}/keys"
        plugin = shutil.copy(MALLOC, self.folder)
        self.assertEqual(self.run_program("plugin", "keygen", key)[0], 0)
        self.refused("plugin", "keygen", key, part="File exists")
        self.refused("plugin", "sign", "--key", f"{key}.pub", plugin, part="holds a PUBLIC KEY")
        self.refused("plugin", "sign", "--key", key, key, part="not a 64-bit ELF file")
        self.assertEqual(self.run_program("plugin", "sign", "--key", key, plugin)[0], 0)
        self.refused("plugin", "verify", "--keys", keys, plugin, part=f"cannot read {keys}")
        os.mkdir(keys)
        code, told, _ = self.run_program("plugin", "verify", "--keys", keys, plugin)
        self.assertEqual(code, 1)
        self.assertIn("which is not trusted", told)
        shutil.copy(f"{key}.pub", f"{keys}/vendor.pub")
        code, told, _ = self.run_program("plugin", "verify", "--keys", keys, plugin)
        self.assertEqual(code, 0, told)
        self.assertIn("signed by the trusted key vendor", told)

    def test_openssl_agrees_about_keys_and_signatures(self):
        if shutil.which("openssl") is None:
            self.skipTest("openssl is not installed")
        key, plugin = f"{self.folder}/key", shutil.copy(MALLOC, self.folder)
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
        self.assertEqual(self.run_program("plugin", "sign", "--key", key, plugin)[0], 0)
        with open(f"{plugin}.sig") as f:
            signature = bytes.fromhex(json.load(f)["signature"])
        raw = f"{self.folder}/raw"
        with open(raw, "wb") as f:
            f.write(signature)
        checked = subprocess.run(["openssl", "pkeyutl", "-verify", "-inkey", key, "-rawin", "-in", plugin,
                                  "-sigfile", raw], capture_output=True, text=True)
        self.assertIn("Verified Successfully", checked.stdout + checked.stderr)
