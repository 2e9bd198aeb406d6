"""The cache from Python, over its C ABI (include/groupcache.h), with nothing but ctypes.

    with Node("http://10.0.0.5:7000") as node, node.serve("0.0.0.0:7000"):
        node.set_peers(["http://10.0.0.5:7000", "http://10.0.0.6:7000"])
        pages = node.group("pages", 64 << 20, read_page, {TTL_MS: 300_000})
        page = pages.get("index.html", timeout=1.0)

The library is found by the name "groupcache", or is the file GROUPCACHE_LIBRARY.

Threads and the GIL: ctypes lets go of the GIL while a function of the library runs, so a thread that
waits for a value stops no other, and takes it for as long as a loader runs. So loaders run one at a
time while they compute, and at the same time while they wait for a database or a socket. A loader is
called on any thread, also on one that Python did not start.

Processes: a node does not survive os.fork: in the child, `Error` with the status FORKED is raised.
Fork first, and make it in the worker (gunicorn: in `post_fork`).

The end: stop servers, close groups and then nodes, before the interpreter ends; best by `with`. What
is open then is closed in this order. To close a node waits until no loader runs any more, up to a
second: one that takes longer meets the end of the interpreter, which may abort the process.
"""

import atexit
import contextlib
import ctypes
import ctypes.util
import os
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_uint64, c_void_p

OK, NOT_FOUND, LOAD, DEADLINE, OVERLOADED, UNREACHED, FORKED = 0, 1, 2, 6, 7, 11, 103
CONNECT_TIMEOUT_MS, FETCH_TIMEOUT_MS, LOADER_THREADS = 1, 2, 6
TTL_MS, MAX_TTL_MS, NEGATIVE_TTL_MS, MAX_LOADS = 101, 102, 108, 109
STATS = """gets main_hits hot_hits joined leads loads load_errors overloads fetches fetch_errors
    peeks inherited served served_hits removes evictions rejections expirations stale_hits stand_ins
    absent_hits absent_items main_items hot_items main_bytes hot_bytes flights""".split()

_LOADER = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_size_t, c_void_p)
_DESTRUCTOR = ctypes.CFUNCTYPE(None, c_void_p)


class _Option(ctypes.Structure):
    _fields_ = [("setting", c_int32), ("number", c_uint64), ("text", c_char_p)]


class Error(Exception):  # `status` is one of GROUPCACHE_STATUS_…
    def __init__(self, status):
        super().__init__(_lib.error_text().decode())
        self.status = status


def _check(status):
    if status not in (OK, NOT_FOUND):
        raise Error(status)
    return status


_lib = ctypes.CDLL(os.environ.get("GROUPCACHE_LIBRARY") or ctypes.util.find_library("groupcache"))
_handle, _text, _key, _out = c_void_p, c_char_p, (c_char_p, c_size_t), POINTER(c_void_p)
_texts, _sizes, _options = POINTER(c_char_p), POINTER(c_size_t), (POINTER(_Option), c_size_t)
for _result, _name, *_arguments in [
    (_text, "error_text"),
    (_check, "node_new", _text, *_options, _out),
    (_check, "node_set_peers", _handle, _texts, c_size_t),
    (c_int32, "node_close", _handle, c_uint64),
    (_check, "group_new", _handle, _text, c_size_t, _LOADER, c_void_p, _DESTRUCTOR, *_options, _out),
    (_check, "group_get", _handle, *_key, c_uint64, _out),
    (_check, "group_try_get", _handle, *_key, _out),
    (_check, "group_get_many", _handle, _texts, _sizes, c_size_t, c_uint64, _out),
    (_check, "group_set", _handle, *_key, _text, c_size_t, c_uint64),
    (_check, "group_remove", _handle, *_key),
    (_check, "group_get_stats", _handle, POINTER(c_uint64), c_size_t),
    (None, "group_free", _handle),
    (_check, "load_value", _handle, _text, c_size_t, c_uint64),
    (_check, "load_error", _handle, _text),
    (c_void_p, "value_bytes", _handle, _sizes),
    (None, "value_free", _handle),
    (_check, "values_get", _handle, c_size_t, _out, _sizes),
    (None, "values_free", _handle),
    (_check, "server_bind", _handle, _text, _out),
    (_check, "server_stop", _handle, c_uint64),
]:
    _function = getattr(_lib, "groupcache_" + _name)
    _function.restype, _function.argtypes = _result, _arguments
    setattr(_lib, _name, _function)


def _milliseconds(seconds):
    return 2**64 - 1 if seconds is None else max(0, round(seconds * 1000))


def _set(settings):
    options = [_Option(setting, number, None) for setting, number in settings.items()]
    return (_Option * len(options))(*options), len(options)


_open = set()


class _Handle(contextlib.AbstractContextManager):  # closed at the end of a `with`
    def __init__(self, make, *arguments):
        self._handle = c_void_p()
        make(*arguments, byref(self._handle))
        _open.add(self)

    def close(self, *arguments):
        _open.discard(self)
        handle, self._handle = self._handle, c_void_p()
        return self._free(handle, *arguments)

    def __exit__(self, *_):
        self.close()


class Node(_Handle):
    _free = _lib.node_close

    def close(self, timeout=1.0):
        """Tells whether no loader runs any more, once servers are stopped and groups closed."""
        return super().close(_milliseconds(timeout)) == OK

    def __init__(self, address, settings={}):
        super().__init__(_lib.node_new, address.encode(), *_set(settings))

    def set_peers(self, addresses):
        texts = (c_char_p * len(addresses))(*[address.encode() for address in addresses])
        _lib.node_set_peers(self._handle, texts, len(texts))

    def group(self, name, capacity_bytes, load, settings={}):
        return Group(self._handle, name, capacity_bytes, load, settings)

    def serve(self, address):
        return Server(_lib.server_bind, self._handle, address.encode())


class Server(_Handle):
    _free = staticmethod(lambda handle: _lib.server_stop(handle, 5000))


_loaders = {}  # kept until the library says that it calls them no more
_forget = _DESTRUCTOR(lambda user: _loaders.pop(user) and None)


class Group(_Handle):
    """`load(key)` returns bytes, or bytes and the seconds they live, or None if there is no value.

    A key may come from anybody who reaches the port: `load` must treat it as untrusted input.
    """
    _free = _lib.group_free

    def __init__(self, node, name, capacity_bytes, load, settings):
        def run(_, key, key_len, out):
            try:
                value = load(ctypes.string_at(key, key_len).decode())
                if value is None:
                    return NOT_FOUND
                value, ttl = value if isinstance(value, tuple) else (value, None)
                return _lib.load_value(out, value, len(value), _milliseconds(ttl))
            except BaseException as error:  # C has none
                _lib.load_error(out, ascii(error).encode())
                return LOAD

        loader = _LOADER(run)
        _loaders[id(loader)] = loader
        super().__init__(_lib.group_new, node, name.encode(), capacity_bytes, loader, id(loader), _forget,
                         *_set(settings))

    def get(self, key, timeout=None):
        """The value, or None. `timeout` is in seconds; without one, a load runs on this thread."""
        return self._get(_lib.group_get, key, _milliseconds(timeout))

    def try_get(self, key):
        """The value if it is in the memory of this process, or None."""
        return self._get(_lib.group_try_get, key)

    def _get(self, function, key, *timeout):
        key, value, size = key.encode(), c_void_p(), c_size_t()
        if function(self._handle, key, len(key), *timeout, byref(value)) == NOT_FOUND:
            return None
        try:
            return ctypes.string_at(_lib.value_bytes(value, byref(size)), size.value)
        finally:
            _lib.value_free(value)

    def get_many(self, keys, timeout=None):
        """For each key its value, None or an `Error`."""
        keys, values = [key.encode() for key in keys], c_void_p()
        count = len(keys)
        texts, sizes = (c_char_p * count)(*keys), (c_size_t * count)(*map(len, keys))
        _lib.group_get_many(self._handle, texts, sizes, count, _milliseconds(timeout), byref(values))
        try:
            return [self._one_of(values, index) for index in range(count)]
        finally:
            _lib.values_free(values)

    def _one_of(self, values, index):
        start, size = c_void_p(), c_size_t()
        try:
            found = _lib.values_get(values, index, byref(start), byref(size)) == OK
            return ctypes.string_at(start, size.value) if found else None
        except Error as error:
            return error

    def set(self, key, value, ttl=None):
        key = key.encode()
        _lib.group_set(self._handle, key, len(key), value, len(value), _milliseconds(ttl))

    def remove(self, key):
        _lib.group_remove(self._handle, key.encode(), len(key.encode()))

    def stats(self):
        stats = (c_uint64 * len(STATS))()
        _lib.group_get_stats(self._handle, stats, ctypes.sizeof(stats))
        return dict(zip(STATS, stats))


@atexit.register
def _close_all():
    for kind in (Server, Group, Node):
        for handle in [handle for handle in _open if isinstance(handle, kind)]:
            with contextlib.suppress(Error):  # of a server that had no time, or in a forked child
                handle.close()
