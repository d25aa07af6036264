"""The iSCSI initiator's logins: mutual CHAP, digests that the operator requires, redirections, and requested logouts."""

import socket
import struct
import threading
import unittest

from host import Host, free_port
from iscsi_client import LOGIN_RESPONSE
from test_bdev_iscsi import Load, create, refusal, serve_ram, writes
from test_iscsi import TARGET
from test_nvme import wait

SECRETS = {"user": "u1", "secret": "a-secret-of-u1", "muser": "t1", "msecret": "a-secret-of-t1"}
USER = "u1%a-secret-of-u1@"
# The target has moved for now. RFC 7143, section 11.13.5.
MOVED = 0x0101
DIGESTS = "?header_digest=crc32c&data_digest=crc32c"


class Answers(threading.Thread):
    """A target that answers each login PDU with these keys and this status. The login is then over."""

    def __init__(self, status=0, **keys):
        super().__init__(daemon=True)
        self.status = status
        self.text = "".join(f"{key}={value}\0" for key, value in keys.items()).encode()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                header = connection.recv(48, socket.MSG_WAITALL)
                length = int.from_bytes(header[5:8], "big")
                connection.recv(length + -length % 4, socket.MSG_WAITALL)
                answer = struct.pack(">BBxxI6sH4s4xIIIH10x", LOGIN_RESPONSE, 0 if self.status else 0x87, len(self.text),
                                     header[8:14], 1, header[16:20], 1, 1, 8, self.status)
                connection.sendall(answer + self.text + bytes(-len(self.text) % 4))
                connection.recv(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


class Login(unittest.TestCase):
    def test_with_mutual_chap_the_target_must_prove_itself_and_no_answer_shows_a_secret(self):
        with Host() as target, Host() as host:
            target.call("iscsi_create_auth_group", tag=3, secrets=[SECRETS])
            port = serve_ram(target, require_chap=True, mutual_chap=True, chap_group=3)
            right = "?target_user=t1&target_password=a-secret-of-t1"
            for options, why in ((right.replace("of-t1", "of-t2"), "prove its identity"),
                                 (right.replace("user=t1", "user=t2"), "prove its identity"),
                                 ("", "refuses the user or secret")):
                error = refusal(host, port, USER, options)
                self.assertEqual(error.code, -1)
                self.assertIn(why, error.message)
                self.assertNotIn("secret-of", error.message)
            self.assertEqual(create(host, port, USER, right), "I0")
            self.assertNotIn("secret-of", str(host.call("bdev_get_bdevs", name="I0")))
            self.assertNotIn("secret-of", host.log(1000))

    def test_a_short_secret_is_accepted_with_a_warning_that_does_not_show_it(self):
        with Host() as target, Host() as host:
            target.call("iscsi_create_auth_group", tag=3, secrets=[{"user": "u1", "secret": "6bytes"}])
            port = serve_ram(target, require_chap=True, chap_group=3)
            self.assertEqual(create(host, port, "u1%6bytes@"), "I0")
            log = host.log(1000)
            self.assertIn("I0: a CHAP secret has fewer than 12 bytes", log)
            self.assertNotIn("6bytes", log)
            self.assertIn("1 to 255 bytes", refusal(host, port, "u1%@").message)

    def test_a_target_that_asks_for_no_proof_cannot_avoid_mutual_chap(self):
        with Host() as target, Host() as host:
            port = serve_ram(target)
            self.assertEqual(refusal(host, port, USER, "?target_user=t1&target_password=a-secret-of-t1").code, -1)
            self.assertEqual(create(host, port, USER), "I0")

    def test_digests_are_used_when_the_operator_requires_them(self):
        with Host() as target:
            port = serve_ram(target)
            report = Load(port, "-o", "64K", "-q", "8", "-n", "400", pattern="verify", options=DIGESTS).report()
            self.assertGreater(report["reads"], 0)

    def test_a_target_without_digests_is_refused_when_the_operator_requires_them(self):
        for keys in ({"HeaderDigest": "None", "DataDigest": "CRC32C"}, {"HeaderDigest": "CRC32C"}):
            with self.subTest(keys=keys), Answers(**keys) as target, Host() as host:
                self.assertIn("digest", refusal(host, target.port, options=DIGESTS).message.lower())

    def test_the_initiator_follows_redirections_but_not_in_a_circle(self):
        with Host() as target, Host() as host:
            port, second = serve_ram(target), free_port()
            target.call("iscsi_create_portal_group", tag=3, portals=[{"host": "127.0.0.1", "port": str(second)}])
            target.call("iscsi_target_node_add_pg_ig_maps", name=TARGET, pg_ig_maps=[{"pg_tag": 3, "ig_tag": 2}])
            redirect = lambda tag, to: target.call("iscsi_target_node_set_redirect", name=TARGET, pg_tag=tag,
                                                   redirect_host="127.0.0.1", redirect_port=str(to))
            redirect(1, second)
            self.assertEqual(create(host, port), "I0")
            host.call("bdev_iscsi_delete", name="I0")
            redirect(3, port)
            self.assertIn("redirects", refusal(host, port).message)

    def test_a_redirection_to_no_address_is_refused(self):
        for address in ("", "[::1", "host:0"):
            with self.subTest(address=address), Answers(MOVED, TargetAddress=address) as target, Host() as host:
                self.assertIn("redirects", refusal(host, target.port).message)

    def test_a_requested_logout_ends_the_session_in_order_and_nothing_is_lost(self):
        with Host() as target:
            port = serve_ram(target)
            load = Load(port, "-o", "4K", "-q", "16", "-t", "8")
            wait(lambda: writes(target) > 1000)
            sessions = lambda: {one["tsih"] for one in target.call("iscsi_get_connections")}
            (old,) = sessions()
            target.call("iscsi_target_node_request_logout", name=TARGET)
            wait(lambda: sessions() and old not in sessions())
            before = writes(target)
            wait(lambda: writes(target) > before + 100)
            self.assertGreater(load.report()["writes"], 0)


if __name__ == "__main__":
    unittest.main()
