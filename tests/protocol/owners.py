"""The owners and deputies of keys, written from docs/PROTOCOL.md alone.

    owners.py PAGE

compares itself with the tables of the page.
"""

import json
import re
import struct
import sys
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal, getcontext
from fractions import Fraction

from client import MASK, siphash13

SLOTS = 163_840
MULTIPLIER = 0xD6E8FEB86659FD93

getcontext().prec = 60


def log_of_interval(number):
    log = Decimal(256 + number).ln() - Decimal(256).ln()
    return int((log / Decimal(2).ln() * 2**32).to_integral_value(ROUND_FLOOR))


LOGS = [0, *map(log_of_interval, range(1, 256)), 2**32]


def mix(number):
    product = number * MULTIPLIER & MASK
    return (product ^ product >> 32) * MULTIPLIER & MASK


def log(score):
    score = max(score, 1)
    highest = score.bit_length() - 1
    rest = (score << (63 - highest)) - 2**63
    interval, part = rest >> 55, (rest >> 23) % 2**32
    step = LOGS[interval + 1] - LOGS[interval]
    return (64 - highest) * 2**32 - LOGS[interval] - (step * part >> 32)


def integer(weight):
    return max(1, int((Decimal(weight) * 65_536).to_integral_value(ROUND_HALF_UP)))


def score(peer, slot):
    return mix(siphash13(peer.encode()) ^ mix(slot + 1))


def slot_of(key):
    return siphash13(key.encode()) * SLOTS >> 64


def order(peers, slot):
    """The places of all peers of a list of ids and weights, from 1, in the order of this slot."""
    def rank(place):
        peer, weight = peers[place - 1]
        number = score(peer, slot)
        return Fraction(log(number), integer(weight)), -number, peer.encode()
    return sorted(range(1, len(peers) + 1), key=rank)


def fingerprint(peers):
    text = struct.pack("<Q", SLOTS)
    for peer, weight in sorted((peer.encode(), weight) for peer, weight in peers):
        text += struct.pack("<Q", len(peer)) + peer + struct.pack("<Q", integer(weight))
    return siphash13(text)


def vectors(page, name):
    """The rows of a table of the page: for each cell what it quotes."""
    rows = page.split(f"<!-- vectors: {name} -->\n\n")[1].split("\n\n")[0].splitlines()[2:]
    return [[re.findall("`([^`]*)`", cell) for cell in row.split("|")[1:-1]] for row in rows]


def check(page):
    logs = vectors(page, "logs")
    for [number], [expected] in logs:
        assert log(int(number, 16)) == int(expected), number
    three = [f"http://10.0.0.{number}:8080" for number in (1, 2, 3)]
    scores = vectors(page, "scores")
    for [slot], [value], expected in scores:
        assert f"{mix(int(slot) + 1):016x}" == value, slot
        assert [f"{score(peer, int(slot)):016x}" for peer in three] == expected, slot
    rings = vectors(page, "rings")
    for peers, [expected], keys, [owners], deputies in rings:
        peers = [peer.split() for peer in peers]
        orders = [order(peers, slot_of(json.loads(key))) for key in keys]
        assert f"{fingerprint(peers):x}" == expected, peers
        assert "".join(str(order[0]) for order in orders) == owners, peers
        assert ["".join(str(order[1]) for order in orders if order[1:])] == (deputies or [""]), peers
    assert logs and scores and rings


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as page:
        check(page.read())
