"""A client of the peer protocol, written from docs/PROTOCOL.md alone.

    client.py HOST:PORT GROUP [SECRET [CLUSTER]]

tries a node whose group holds `value of <key>` for every key but `missing`. The node has its address as
id; where its cluster has a secret, requests are signed, and where that has a name, they say it.
"""

import hashlib
import hmac
import http.client
import secrets
import struct
import sys
import time
from urllib.parse import quote

MASK = (1 << 64) - 1


def siphash13(data):
    """SipHash-1-3 under the keys of the protocol."""
    k0, k1 = 0x67726F7570636163, 0x68652D72696E672E
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def turn(x, bits):
        return (x << bits | x >> (64 - bits)) & MASK

    def rounds(count):
        for _ in range(count):
            v[0] = (v[0] + v[1]) & MASK
            v[2] = (v[2] + v[3]) & MASK
            v[1], v[3] = turn(v[1], 13) ^ v[0], turn(v[3], 16) ^ v[2]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[1]) & MASK
            v[0] = (v[0] + v[3]) & MASK
            v[1], v[3] = turn(v[1], 17) ^ v[2], turn(v[3], 21) ^ v[0]
            v[2] = turn(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(3)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def key_hash(group, key):
    return siphash13(struct.pack("<Q", len(group.encode())) + group.encode() + key.encode())


def request_hash(method, path, body):
    parts = method.encode(), path.encode(), body
    return siphash13(b"".join(struct.pack("<Q", len(part)) + part for part in parts))


def escape(text):
    return quote(text, safe="").replace(".", "%2E")


def signature(secret, method, peer, path, header, boot, body):
    """The value of X-Groupcache-Auth."""
    now, nonce = time.time_ns() // 1_000_000, secrets.token_bytes(16)
    digest = hashlib.sha256(body)
    code = hmac.new(secret.encode(), digestmod=hashlib.sha256)
    numbers = [struct.pack(">Q", number) for number in (now, boot, len(body))]
    texts = [part.encode() for part in ("2", method, peer, path, header)]
    for part in [*texts, numbers[0], nonce, numbers[1], numbers[2], digest.digest()]:
        code.update(struct.pack(">Q", len(part)) + part)
    return (f"v=2;t={now};n={nonce.hex()};b={boot:016x};h={digest.hexdigest()};"
            f"m={code.hexdigest()}")


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """The fields of a message, as pairs of number and value."""
    at = 0

    def read_varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        tag = read_varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, read_varint()
            continue
        length = {1: 8, 5: 4}.get(kind) or read_varint()
        value = message[at:at + length]
        assert len(value) == length, "the message is cut off"
        at += length
        yield tag >> 3, value


class Client:
    def __init__(self, address, group, secret=None, cluster=None):
        self.connection = http.client.HTTPConnection(address, timeout=60)
        self.peer = "http://" + address
        self.group = group
        self.secret = secret
        self.boot = 0
        self.meant = f";t={escape(self.peer)}" + (f";g={escape(cluster)}" if cluster else "")

    def ask(self, method, key=None, body=b"", pairs=""):
        names = [self.group] if key is None else [self.group, key]
        path = "/_groupcache/" + "/".join(map(escape, names))
        known, (status, header, answer) = self.boot, self.send(method, path, body, pairs)
        if status == "stale-boot" and self.boot != known:
            status, header, answer = self.send(method, path, body, pairs)
        assert int(header["k"], 16) == request_hash(method, path, body), "another request"
        return status, answer

    def send(self, method, path, body, pairs):
        headers = {"X-Groupcache": "v=1" + pairs + self.meant}
        if self.secret:
            auth = signature(self.secret, method, self.peer, path, headers["X-Groupcache"],
                             self.boot, body)
            headers["X-Groupcache-Auth"] = auth
        self.connection.request(method, path, body, headers)
        reply = self.connection.getresponse()
        header = dict(pair.split("=", 1) for pair in reply.headers["X-Groupcache"].split(";"))
        self.boot = int(header.get("b", "0"), 16) or self.boot
        return header["s"], header, reply.read()

    def value(self, key, message):
        answer = dict(fields(message))
        assert struct.unpack("<Q", answer[101]) == (key_hash(self.group, key),), "another key"
        if 102 in answer:
            return answer[102].decode()
        return answer.get(1, b""), answer.get(100)

    def get(self, key):
        status = "loading"
        while status == "loading":
            status, body = self.ask("GET", key, pairs=";w=500")
        return self.value(key, body) if status == "ok" else status

    def get_many(self, keys):
        found, rest = {}, list(keys)
        while rest:
            command = b"".join(field(3, key.encode()) for key in rest)
            status, body = self.ask("POST", body=command, pairs=";w=500;m=1048576")
            items = [item for number, item in fields(body) if number == 1]
            assert status == "ok" and items, status
            answered = [(key, self.value(key, item)) for key, item in zip(rest, items)]
            found.update((key, value) for key, value in answered if value != "loading")
            rest = rest[len(items):] + [key for key, value in answered if value == "loading"]
        return found

    def set(self, key, value, life):
        body = field(1, self.group.encode()) + field(2, key.encode())
        return self.ask("PUT", key, body + field(3, value) + field(100, life))[0]


def main():
    client = Client(*sys.argv[1:])
    if client.secret:
        # The first change learns for which process it is to be signed.
        assert client.set("first", b"set", 60_000) == "ok" and client.boot
    for key in ["plain", "", "a b/c+d%2F", "..", "\U0001F600"]:
        assert client.get(key)[0] == b"value of " + key.encode(), key
    assert client.get("missing") == "not-found"
    assert client.set("plain", b"another", 60_000) == "ok"
    value, life = client.get("plain")
    assert value == b"another" and 0 < life <= 60_000, (value, life)
    assert client.ask("DELETE", "plain")[0] == "ok"
    assert client.get("plain")[0] == b"value of plain"
    keys = [f"key {number}" for number in range(200)] + ["missing"]
    many = client.get_many(keys)
    assert many.pop("missing") == "not-found" and len(many) == 200
    assert all(value == b"value of " + key.encode() for key, (value, _) in many.items())
    assert client.ask("POST", body=field(2, b"key 1") + field(2, b"key 2"))[0] == "ok"


if __name__ == "__main__":
    main()
