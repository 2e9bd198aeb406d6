"""Threads of Python over one cache: one load for all, errors, expiry, two nodes, and a fork.

    cargo rustc --release --lib --features capi --crate-type cdylib
    GROUPCACHE_LIBRARY=target/release/libgroupcache_sync.so python3 examples/python/demo.py
"""

import os
import socket
import threading

import groupcache
from groupcache import Error, Node

THREADS = 32


def at_once(work):
    """The results of `work` on many threads at the same time."""
    start, results = threading.Barrier(THREADS), [None] * THREADS

    def run(index):
        start.wait()
        results[index] = work()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def one_load_for_all_threads():
    started, loads = threading.Event(), []

    def load(key):
        loads.append(key)
        if key == "popular":
            started.wait()  # without the GIL: the others come and wait for this load meanwhile
        return f"value of {key}".encode()

    with Node("http://127.0.0.1:1") as node, node.group("pages", 1 << 20, load) as pages:
        watcher = threading.Thread(target=release_when_all_wait, args=(pages, started))
        watcher.start()
        values = at_once(lambda: pages.get("popular"))
        watcher.join()
        assert values == [b"value of popular"] * THREADS
        assert loads == ["popular"], loads
        print(f"{THREADS} threads, {pages.stats()['loads']} load")


def release_when_all_wait(pages, started):
    while pages.stats()["joined"] < THREADS - 1:
        pass
    started.set()


def answers_and_errors():
    def load(key):
        if key == "absent":
            return None
        if key == "broken":
            raise KeyError("no such table")
        if key == "fleeting":
            return b"for those who wait", 0
        return key.encode()

    with Node("http://127.0.0.1:1") as node, node.group("things", 1 << 20, load) as things:
        assert things.get("a\0ä", timeout=60) == "a\0ä".encode()
        assert things.try_get("a\0ä") == "a\0ä".encode() and things.try_get("b") is None
        assert things.get("absent", timeout=60) is None
        assert things.get("fleeting") == b"for those who wait" and things.try_get("fleeting") is None
        try:
            things.get("broken", timeout=60)
            raise AssertionError("it is broken")
        except Error as error:
            assert error.status == groupcache.LOAD and "no such table" in str(error), error
        a, absent, broken, empty = things.get_many(["a", "absent", "broken", ""], timeout=60)
        assert (a, absent, empty) == (b"a", None, b"") and "no such table" in str(broken)
        things.set("a", b"new", ttl=3600)
        assert things.get("a") == b"new"
        things.remove("a")
        assert things.try_get("a") is None and things.get("a") == b"a"
        assert things.stats()["main_items"] > 0


def two_nodes_are_one_cache():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [one.getsockname()[1], two.getsockname()[1]]
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    loads, lock = [], threading.Lock()

    def load(key):
        with lock:
            loads.append(key)
        return key.upper().encode()

    patience = {groupcache.CONNECT_TIMEOUT_MS: 30_000, groupcache.FETCH_TIMEOUT_MS: 30_000}
    with Node(addresses[0], patience) as first, Node(addresses[1], patience) as second:
        with first.serve(f"127.0.0.1:{ports[0]}"), second.serve(f"127.0.0.1:{ports[1]}"):
            groups = []
            for node in (first, second):
                node.set_peers(addresses)
                groups.append(node.group("words", 1 << 20, load))
            keys = [f"word-{n}" for n in range(100)]
            for group in groups:
                assert group.get_many(keys, timeout=60) == [key.upper().encode() for key in keys]
            assert sorted(loads) == sorted(keys), "a key was loaded twice"
            groups[0].set("word-0", b"new")
            assert groups[1].get("word-0", timeout=60) == b"new"
            print("two nodes,", len(loads), "keys,", len(loads), "loads")
            for group in groups:
                group.close()


def a_forked_child_is_told_so():
    with Node("http://127.0.0.1:1") as node, node.group("g", 1 << 20, str.encode) as group:
        assert group.get("k", timeout=60) == b"k"
        child = os.fork()
        if child == 0:
            status = 1
            try:
                group.get("k")
            except Error as error:
                status = 0 if error.status == groupcache.FORKED else 2
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert group.get("k") == b"k"
        print("a forked child is told so")


if __name__ == "__main__":
    one_load_for_all_threads()
    answers_and_errors()
    two_nodes_are_one_cache()
    a_forked_child_is_told_so()
    assert not groupcache._loaders, "a loader was not let go"
