"""The examples of sdk/c: built with only a C compiler, loaded by their methods, used, unloaded."""

import os
import random
import shutil
import tempfile
import unittest

import fabric_client
import vendor
from host import Host

NQN = "nqn.2026-01.io.drivebay:c"
MIB = 1 << 20


class CPlugins(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="drivebay-test.")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.ramdisk = vendor.compile_c(f"{vendor.EXAMPLES}/ramdisk.c", f"{cls.folder}/ramdisk.so")
        cls.xor = vendor.compile_c(f"{vendor.EXAMPLES}/xor_filter.c", f"{cls.folder}/xor.so")
        cls.plugins = vendor.plugin_dir(cls.folder, cls.ramdisk, cls.xor)

    def host(self, *flags):
        return Host(*flags, plugin_dir=self.plugins)

    def test_both_compilers_take_them_without_a_warning(self):
        for compiler in ("cc", "clang"):
            if shutil.which(compiler):
                for name in ("ramdisk", "xor_filter"):
                    vendor.compile_c(f"{vendor.EXAMPLES}/{name}.c", f"{self.folder}/again", compiler=compiler)

    def test_installed_headers_are_found_by_pkg_config(self):
        prefix = f"{self.folder}/prefix"
        vendor.run("make", "-C", vendor.SDK_C, "install", f"PREFIX={prefix}")
        flags = vendor.run("pkg-config", "--cflags", "drivebay",
                           env={**os.environ, "PKG_CONFIG_PATH": f"{prefix}/share/pkgconfig"}).split()
        source = f"{prefix}/share/doc/drivebay/examples/ramdisk.c"
        made = vendor.compile_c(source, f"{self.folder}/installed.so", *flags)
        self.assertIn("may be loaded", vendor.drivebay("plugin", "inspect", made))

    def test_io_through_both_is_verified_on_the_bus_and_over_tcp(self):
        create = '{"name": "R0", "num_blocks": 32768}'
        mask = '{"name": "X0", "base_bdev_name": "R0", "key": 11}'
        for size in ("512", "4K", "100K"):
            with self.subTest(size):
                text = vendor.drivebay(
                    "perf", "X0", "-w", "verify", "-n", "300", "-q", "8", "-o", size,
                    "--plugin-dir", self.plugins, "--rpc", f"bdev_ramdisk_create {create}",
                    "--rpc", f"bdev_xor_create {mask}")
                self.assertIn("compared with what was written", text)
        with self.host() as host:
            host.call("bdev_ramdisk_create", name="R0", num_blocks=32768)
            host.call("bdev_xor_create", name="X0", base_bdev_name="R0", key=11)
            _, port = host.export("X0", NQN)
            vendor.verify_over_tcp(port, NQN, 8 * MIB)
            host.call("nvmf_delete_subsystem", nqn=NQN)

    def test_parameters_are_refused_by_name_and_null_means_absent(self):
        good = {"name": "R0", "num_blocks": 64}
        with self.host() as host:
            for params, text in (
                ({"name": "R0"}, "num_blocks: allowed: a number from 1 to 4294967295; it is required"),
                ({**good, "blocks": 1}, "unknown parameter blocks"),
                ({**good, "num_blocks": 0}, "num_blocks: allowed: a number from 1"),
                ({**good, "num_blocks": -1}, "num_blocks: allowed"),
                ({**good, "num_blocks": 1.5}, "num_blocks: allowed"),
                ({**good, "num_blocks": 1 << 64}, "num_blocks: allowed"),
                ({**good, "name": ""}, "name: allowed: a text of 1 to 255 bytes"),
                ({**good, "name": "x" * 256}, "name: allowed"),
                ({**good, "name": "a\0b"}, "name: allowed"),
                ({**good, "name": ["R0"]}, "name: allowed"),
            ):
                error = host.refused("bdev_ramdisk_create", **params)
                self.assertEqual(error.code, -32602, params)
                self.assertIn(text, error.message)
            error = host.refused("bdev_ramdisk_create", **good, block_size=513)
            self.assertEqual((error.code, error.message), (-22, "block_size must be a multiple of 512"))
            self.assertEqual(host.refused("bdev_ramdisk_delete", name="R0").code, -19)

            odd = 'q"\\/\n\t\x01é漢\U0001f980'
            self.assertEqual(host.call("bdev_ramdisk_create", name=odd, num_blocks=64, block_size=None), odd)
            self.assertEqual(host.refused("bdev_ramdisk_create", name=odd, num_blocks=64).code, -17)
            (bdev,) = host.call("bdev_get_bdevs", name=odd)
            self.assertEqual((bdev["block_size"], bdev["num_blocks"]), (512, 64))
            self.assertIs(host.call("bdev_ramdisk_delete", name=odd), True)

    def test_the_transport_serves_an_nvme_host(self):
        unix = vendor.compile_c(f"{vendor.EXAMPLES}/unix_transport.c", f"{self.folder}/unix.so")
        path = f"{self.folder}/unix.socket"
        with Host(plugin_dir=vendor.plugin_dir(self.folder, unix)) as host:
            host.call("bdev_ramdisk_create", name="R0", num_blocks=32768)
            host.call("nvmf_create_transport", trtype="UNIX")
            host.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
            host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "R0"})
            host.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address={"trtype": "UNIX", "traddr": path})
            namespace = fabric_client.Namespace(path, NQN)
            namespace.verify(1 * MIB)
            # A disk without data does not fill the buffers. A fabric that sends its own memory must get it
            # cleared for such a disk.
            host.call("bdev_null_create", name="N0", num_blocks=1024, block_size=512)
            nsid = host.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "N0"})
            _, data = namespace.io.command(
                fabric_client.READ, nsid=nsid, tail=namespace.place(0, 32 << 10), want=32 << 10)
            self.assertEqual(data, bytes(32 << 10))
            # The fabric closes a peer that sends nonsense. The others stay connected.
            stranger = fabric_client.socket.socket(fabric_client.socket.AF_UNIX)
            stranger.connect(path)
            stranger.sendall(b"\xff" * 4096)
            self.assertEqual(stranger.recv(1), b"")
            stranger.close()
            namespace.verify(1 * MIB)
            host.call("nvmf_delete_subsystem", nqn=NQN)
            with self.assertRaises((EOFError, ConnectionError)):
                namespace.io.receive()
            namespace.close()

    def test_the_configuration_makes_them_again(self):
        with self.host() as host:
            host.call("bdev_ramdisk_create", name="R0", num_blocks=64, block_size=4096)
            host.call("bdev_xor_create", name="A0", base_bdev_name="R0", key=(1 << 64) - 1)
            saved = host.call("framework_get_config", name="bdev")
            calls = [call for call in saved if call["method"].endswith(("ramdisk_create", "xor_create"))]
            self.assertEqual([call["params"] for call in calls], [
                {"name": "R0", "num_blocks": 64, "block_size": 4096},
                {"name": "A0", "base_bdev_name": "R0", "key": (1 << 64) - 1}])

    def test_a_filter_goes_with_its_base_and_both_plugins_unload(self):
        with self.host() as host:
            host.call("bdev_ramdisk_create", name="R0", num_blocks=64)
            host.call("bdev_xor_create", name="X0", base_bdev_name="R0", key=1)
            self.assertEqual(host.refused("bdev_xor_create", name="X1", base_bdev_name="R0", key=1).code, -1)
            self.assertEqual(host.refused("bdev_xor_create", name="X1", base_bdev_name="none", key=1).code, -19)
            self.assertIs(host.call("bdev_ramdisk_delete", name="R0"), True)
            self.assertEqual(host.call("bdev_get_bdevs"), [])
            for name in ("xor", "ramdisk"):
                host.call("plugin_unload", name=name)

    def test_a_host_with_open_disks_of_theirs_ends_cleanly(self):
        with self.host() as host:
            host.call("bdev_ramdisk_create", name="R0", num_blocks=2048)
            host.call("bdev_xor_create", name="X0", base_bdev_name="R0", key=1)
            host.export("X0", NQN)


class Parameters(unittest.TestCase):
    """bay_params.h parses outside input, so it gets mutated texts under the sanitizers."""

    HARNESS = r"""
#include "bay_rpc.h"
#include <stdio.h>
#include <stdlib.h>
struct all { char text[8]; uint32_t small; uint64_t large; bool truth; };
static const struct bay_param params[] = {
    BAY_TEXT_PARAM(struct all, text, true, "t"), BAY_U32_PARAM(struct all, small, false, 0, 9, "s"),
    BAY_U64_PARAM(struct all, large, false, 0, UINT64_MAX, "l"), BAY_BOOL_PARAM(struct all, truth, false, "b")};
int main(void) {
    static char line[1 << 16];
    while (fgets(line, sizeof(line), stdin)) {
        size_t len = strcspn(line, "\n");
        char *exact = malloc(len ? len : 1); /* so that a byte too far is seen */
        memcpy(exact, line, len);
        struct all all = {"", 0, 0, false};
        BAY_TEXT(why, 64);
        bool ok = bay_params(bay_str_of(exact, len), params, 4, &all, &why);
        for (char *c = all.text; *c; c++)
            *c = *c == '\n' ? ' ' : *c; /* an answer is a line */
        if (ok)
            printf("%s %u %llu %d\n", all.text, all.small, (unsigned long long)all.large, all.truth);
        else
            printf("refused\n");
        free(exact);
    }
    return 0;
}
"""

    def setUp(self):
        folder = tempfile.mkdtemp(prefix="drivebay-test.")
        self.addCleanup(shutil.rmtree, folder)
        with open(f"{folder}/harness.c", "w") as f:
            f.write(self.HARNESS)
        self.program = f"{folder}/harness"
        vendor.run("cc", *vendor.STRICT, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
                   "-I", vendor.SDK_C, "-o", self.program, f"{folder}/harness.c")
        self.input = f"{folder}/input"

    def read(self, texts):
        with open(self.input, "wb") as f:
            f.write(b"\n".join(texts) + b"\n")
        with open(self.input) as f:
            lines = vendor.subprocess.run([self.program], stdin=f, capture_output=True, timeout=60)
        self.assertEqual(lines.returncode, 0, lines.stderr.decode(errors="replace"))
        answers = lines.stdout.split(b"\n")[:-1]
        self.assertEqual(len(answers), len(texts))
        return answers

    def test_values_are_read_as_json_means_them(self):
        cases = [
            (b'{"text":"a"}', "a 0 0 0"),
            (rb' { "large" : 18446744073709551615 , "truth":true,"small":9,"text":"\u00e9\ud83e\udd80"} ',
             "\u00e9\U0001f980 9 18446744073709551615 1"),
            (rb'{"text":"\"\\\/\t"}', '"\\/\t 0 0 0'),
            (b'{"text":"1234567","small":null,"truth":false}', "1234567 0 0 0"),
        ]
        refused = [
            b'{"text":"12345678"}', b'{"text":"a","text":"b"}', b'{"text":"a","small":10}',
            b'{"text":"a","small":01}', b'{"text":"a","small":1e0}', b'["a"]', b'{"text":"a"', b"",
            rb'{"text":"\ud83ex"}', rb'{"text":"\u0000"}', b'{"text":"a","large":18446744073709551616}',
            b'{"text":"a","truth":1}', b'{"text":"a",}', b'{"text":null}', b'{"text":{}}', b'{"":1}', b"null",
        ]
        answers = self.read([text for text, _ in cases] + refused)
        self.assertEqual(answers, [answer.encode() for _, answer in cases] + [b"refused"] * len(refused))

    def test_a_hundred_thousand_mutated_texts_touch_nothing_else(self):
        seeds = [b'{"text":"\\u00e9\\ud83e\\udd80","small":9,"large":18446744073709551615,"truth":true}',
                 b'{"truth":false,"text":"a\\n\\"","small":null}']
        chance = random.Random(4)
        texts = []
        for _ in range(100_000):
            text = bytearray(chance.choice(seeds))
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(text) + 1)
                if chance.random() < 0.5:
                    del text[at:at + chance.randint(1, 9)]
                else:
                    text[at:at + chance.randint(0, 1)] = bytes([chance.choice(b'{}[]",:\\u0d8e"ntf19 \x00\xff')])
            texts.append(bytes(text).replace(b"\0", b"\x01"))
        answers = self.read(texts)
        self.assertGreater(answers.count(b"refused"), 50_000)
        self.assertLess(answers.count(b"refused"), 100_000)


if __name__ == "__main__":
    unittest.main()
