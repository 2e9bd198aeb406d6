// groupcache-sync: a distributed read-through cache. The C ABI.
//
// This file is made by cbindgen; do not edit it. Link with -lgroupcache (built by cargo-c).
//
// groupcache_X_verb is a method of X. What it returns is its status, unless it cannot fail.
//
// - Where it fails, groupcache_error_text has the reason in words. Out-arguments are written only
//   where it returns GROUPCACHE_STATUS_OK.
// - A handle is made by a function with an out-argument, and freed, once, by the function that says
//   so. A const handle may be used by any number of threads at once; when a handle is freed, no
//   other thread may use it. Handles may be freed in any order.
// - NULL is checked for, and is an error where it is not said to be fine. Any other pointer must be
//   good for what it is passed for. `(NULL, 0)` is an empty list or text.
// - Keys are UTF-8, given by pointer and length; they may contain NUL. Addresses, names and file
//   names end with NUL. What is passed is copied, or not used after the function returns.
// - A loader is called on any thread, and no lock of the library is held meanwhile: it may block,
//   and get other keys. A key may come from anybody who reaches the port: a loader must treat it as
//   untrusted input, and never make a path, a query or a command of its text.
// - A node does not survive fork. In a child, all that belongs to it returns
//   GROUPCACHE_STATUS_FORKED; to free it there is fine, and does nothing; values stay readable.
//   Sockets stay open there until it ends or replaces itself. Nor can such a child have a node of its
//   own: fork first, then make a node in each process that needs one.
// - Neither an exception nor longjmp may leave a loader or a destructor. No panic leaves the library.
// - The numbers of statuses and settings never change, structs grow at the end only and are passed
//   with their size, and functions do not change what they take.


#ifndef GROUPCACHE_H
#define GROUPCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of this header. groupcache_version() tells that of the library in use.
#define GROUPCACHE_VERSION "0.1.0"

// A timeout that never ends.
#define GROUPCACHE_NEVER UINT64_MAX

// A life that is the group's default.
#define GROUPCACHE_DEFAULT_TTL UINT64_MAX

// How a call ended. `GROUPCACHE_STATUS_OK` is 0, and the numbers never change: new ones may be
// added, so treat one that you do not know as a failure.
enum groupcache_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It did what it should.
  GROUPCACHE_STATUS_OK = 0,
  // There is no value for this key. An answer, not a failure.
  GROUPCACHE_STATUS_NOT_FOUND = 1,
  // The loader failed. Nothing is cached: the next get loads again.
  GROUPCACHE_STATUS_LOAD = 2,
  // The loader panicked.
  GROUPCACHE_STATUS_PANICKED = 3,
  // The loader of the key's owner failed, and this group hands its error on.
  GROUPCACHE_STATUS_OWNER_LOAD = 4,
  // A loader asked for the key it is loading, directly or through other loads.
  GROUPCACHE_STATUS_CYCLE = 5,
  // The time was over first. A load that had begun goes on, and its value will be cached.
  GROUPCACHE_STATUS_DEADLINE = 6,
  // As many loads are under way as may be.
  GROUPCACHE_STATUS_OVERLOADED = 7,
  // The key is too long to travel to peers.
  GROUPCACHE_STATUS_KEY_TOO_LONG = 8,
  // The value is too large to travel between peers.
  GROUPCACHE_STATUS_VALUE_TOO_LARGE = 9,
  // The value could not be encoded.
  GROUPCACHE_STATUS_ENCODE = 10,
  // A change did not reach all peers: the text names them. It holds here and on all others.
  GROUPCACHE_STATUS_UNREACHED = 11,
  // The peer list lacks this node.
  GROUPCACHE_STATUS_SELF_MISSING = 12,
  // The address of a peer cannot be used.
  GROUPCACHE_STATUS_INVALID_PEER = 13,
  // A setting cannot be used.
  GROUPCACHE_STATUS_INVALID_SETTING = 14,
  // The node has a group of this name already.
  GROUPCACHE_STATUS_GROUP_EXISTS = 15,
  // An address cannot be listened on.
  GROUPCACHE_STATUS_BIND = 16,
  // A thread could not be started.
  GROUPCACHE_STATUS_THREAD = 17,
  // A certificate, a key or the authorities cannot be used.
  GROUPCACHE_STATUS_TLS = 18,
  // An argument is `NULL` that must not be.
  GROUPCACHE_STATUS_NULL_POINTER = 100,
  // A text is not UTF-8.
  GROUPCACHE_STATUS_INVALID_UTF8 = 101,
  // An argument makes no sense: the text says which.
  GROUPCACHE_STATUS_INVALID_ARGUMENT = 102,
  // The handle belongs to the process that this one was forked from, or that had a node when it
  // forked. A node does not survive `fork`: fork first, then make one in each process.
  GROUPCACHE_STATUS_FORKED = 103,
  // The library panicked, which is a bug of it. The call has not done what it should; nothing
  // else is harmed.
  GROUPCACHE_STATUS_PANIC = 104,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum groupcache_status groupcache_status;
#else
typedef int32_t groupcache_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What can be set. Settings up to 99 are of nodes, the others of groups. The numbers never
// change.
enum groupcache_setting
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // How long a connection to a peer may take to be made. Default 250.
  GROUPCACHE_SETTING_CONNECT_TIMEOUT_MS = 1,
  // How long a peer may be silent: until its answer begins, and then for each 64 KiB. Default 1,000.
  GROUPCACHE_SETTING_FETCH_TIMEOUT_MS = 2,
  // How long a load may take where nobody can say that it is still under way. Default 10,000.
  GROUPCACHE_SETTING_LOAD_TIMEOUT_MS = 3,
  // How long a value lives that was loaded here as its owner was unreachable. Default 2,000.
  GROUPCACHE_SETTING_FALLBACK_LIFE_MS = 4,
  // How many calls to a peer must fail in a row for it to count as unreachable. Default 3.
  GROUPCACHE_SETTING_CIRCUIT_FAILURES = 5,
  // How many threads may run loads for gets with a timeout and for peers. Default 16.
  GROUPCACHE_SETTING_LOADER_THREADS = 6,
  // How large a value may be to be cached and to travel, in bytes. Default 16 MiB.
  GROUPCACHE_SETTING_MAX_VALUE = 7,
  // 1 if the peer list may lack this node, which then owns nothing. Default 0.
  GROUPCACHE_SETTING_ALLOW_ABSENT = 8,
  // 1 for the protocol of golang/groupcache, on all peers. Default 0.
  GROUPCACHE_SETTING_GOLANG = 9,
  // Text: the file with the secret that all nodes share. Needs the feature `auth`.
  GROUPCACHE_SETTING_SECRET_FILE = 10,
  // 1 if a `GET` takes no signature. Needs the feature `auth`. Default 0.
  GROUPCACHE_SETTING_UNSIGNED_READS = 11,
  // Text: the file with the certificates of this node, in PEM; the two below go with it. Needs the
  // feature `tls`.
  GROUPCACHE_SETTING_TLS_CERTIFICATE_FILE = 12,
  // Text: the file with their key, in PEM.
  GROUPCACHE_SETTING_TLS_KEY_FILE = 13,
  // Text: the file with the authorities that sign the certificates of peers, in PEM.
  GROUPCACHE_SETTING_TLS_AUTHORITY_FILE = 14,
  // 1 if whoever connects must have a certificate too. Default 0.
  GROUPCACHE_SETTING_TLS_CLIENT_CERTIFICATES = 15,
  // For how long after a change of the ring values are taken over from their last owners.
  // Default 30,000.
  GROUPCACHE_SETTING_WARM_UP_MS = 16,
  // Text: the name of the cluster, the same on all nodes, of 1 to 255 bytes. Default: none.
  GROUPCACHE_SETTING_CLUSTER = 17,
  // How long a value lives at most that a deputy has loaded. Default 30,000.
  GROUPCACHE_SETTING_DEPUTY_LIFE_MS = 18,
  // How long a value lives whose loader does not say. Default: until it is evicted.
  GROUPCACHE_SETTING_TTL_MS = 101,
  // How long any value lives at most. Default: no limit.
  GROUPCACHE_SETTING_MAX_TTL_MS = 102,
  // By how much of its life, in percent, a value may expire earlier, so that values loaded
  // together do not expire together. Default 0.
  GROUPCACHE_SETTING_TTL_JITTER_PERCENT = 103,
  // How many bytes of the capacity mirrored values may take. Default: an eighth.
  GROUPCACHE_SETTING_HOT_BYTES = 104,
  // How long a mirrored copy lives at most. Default 30,000.
  GROUPCACHE_SETTING_HOT_TTL_MS = 105,
  // How often a minute the whole cluster must ask for a key for its value to be mirrored.
  // Default 60.
  GROUPCACHE_SETTING_HOT_THRESHOLD_PER_MINUTE = 106,
  // 1 if the error of an owner's loader is returned, 0 if it is loaded here instead. Default 0.
  GROUPCACHE_SETTING_HAND_ON_LOAD_ERRORS = 107,
  // For how long it is kept that there is no value. Default 0: it is not.
  GROUPCACHE_SETTING_NEGATIVE_TTL_MS = 108,
  // How many loads of the group may run in this process at once. Default: no limit.
  GROUPCACHE_SETTING_MAX_LOADS = 109,
  // For how long past its expiry a value is given out while it is renewed. Default 0.
  GROUPCACHE_SETTING_STALE_WHILE_REVALIDATE_MS = 110,
  // For how long past its expiry a value is given out if its load fails. Default 0.
  GROUPCACHE_SETTING_STALE_IF_ERROR_MS = 111,
  // How many locks the cache is spread over. Default: by its capacity and the processors.
  GROUPCACHE_SETTING_SHARDS = 112,
  // For how long the error of a load that failed again is given to those who ask, without another
  // load. Default 250.
  GROUPCACHE_SETTING_ERROR_TTL_MS = 113,
  // How many bytes of values this process hands to the deputies of their keys. Default: a
  // thirty-second of the capacity.
  GROUPCACHE_SETTING_DEPUTY_BYTES = 114,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum groupcache_setting groupcache_setting;
#else
typedef int32_t groupcache_setting;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A named cache with a loader, shared by all nodes that have a group of this name: a handle to it.
// All its functions may be called from any thread, also from inside a loader, but for
// `groupcache_group_free`.
//
// A value is bytes. A group of a program in Rust that has the same name and another type shows its
// encoded form.
typedef struct groupcache_group groupcache_group;

// One run of a loader. Used by that run only, on its thread.
typedef struct groupcache_load groupcache_load;

// This process in the cluster: it holds groups and knows the peers. All its functions may be called
// from any thread, but for `groupcache_node_free`.
typedef struct groupcache_node groupcache_node;

// What a node knew of its peers, itself included, when it was asked. Any number of threads may read
// it.
typedef struct groupcache_peers groupcache_peers;

// Answers the peers of a node, on threads of its own, until it is stopped. It keeps its node.
typedef struct groupcache_server groupcache_server;

// Bytes that a get has brought. They stay as they are until `groupcache_value_free`, also when the
// cache, the group and the node are gone; any number of threads may read them.
typedef struct groupcache_value groupcache_value;

// What a get of many keys has brought: for each key a value or why there is none, in the order of
// the keys. Any number of threads may read it.
typedef struct groupcache_values groupcache_values;

// Loads the value of a key: gives it to `load` by `groupcache_load_value` and returns
// `GROUPCACHE_STATUS_OK`, or returns `GROUPCACHE_STATUS_NOT_FOUND` if there is none, or anything
// else if it failed, best after `groupcache_load_error` has said why.
//
// `user` is what the group was made with. The key has no NUL at its end. The key and `load` are
// valid until the loader returns. It may block. It is called on any thread, the caller's own or
// one of the node's, and on several at once, but for one key only where that was removed or set
// meanwhile. It may get other keys, but must neither free its group, node or server, nor unwind or
// jump out.
typedef int32_t (*groupcache_loader)(void *user,
                                     const char *key,
                                     size_t key_len,
                                     groupcache_load *load);

// Frees what a group was made with, once, when no loader can be called with it any more. It is
// called on any thread: that which frees the last handle, or one of the node's own, for which
// `groupcache_node_close` waits.
typedef void (*groupcache_destructor)(void *user);

// A setting, and what it is set to. The last option of a setting counts.
typedef struct {
  // A `groupcache_setting`.
  int32_t setting;
  // What it is set to: milliseconds, bytes, a number, or 1 for yes and 0 for no.
  uint64_t number;
  // What it is set to where the setting says that it is a text, which ends with NUL. Else `NULL`.
  const char *text;
} groupcache_option;

// What happened in a group on this node since it was made.
// `gets = main_hits + hot_hits + joined + leads`. New fields are added at the end only.
typedef struct {
  // Local gets. A `groupcache_group_try_get` counts only if it finds something.
  uint64_t gets;
  // Gets that found a value this node owns in its memory, or that there is none.
  uint64_t main_hits;
  // Gets that found a mirrored value in memory.
  uint64_t hot_hits;
  // Gets that waited for another thread's load or fetch.
  uint64_t joined;
  // Gets that had to load or fetch.
  uint64_t leads;
  // Runs of the loader, for local callers and for peers.
  uint64_t loads;
  // Runs of the loader that failed or found nothing.
  uint64_t load_errors;
  // Loads that were refused, because as many were running as may.
  uint64_t overloads;
  // Values asked for from peers.
  uint64_t fetches;
  // Fetches that got neither a value nor an answer that there is none.
  uint64_t fetch_errors;
  // Values asked for from the peers that owned their keys before the ring changed.
  uint64_t peeks;
  // Those of them that were taken over, and not loaded anew.
  uint64_t inherited;
  // Requests from peers for a value.
  uint64_t served;
  // Requests from peers answered from memory.
  uint64_t served_hits;
  // Keys removed, by local callers and for peers.
  uint64_t removes;
  // Entries that made room for others.
  uint64_t evictions;
  // Those of them that were new, and asked for less often than what they would have displaced.
  uint64_t rejections;
  // Entries that left because their time was over.
  uint64_t expirations;
  // Those of the hits that found a value past its expiry, which is being renewed.
  uint64_t stale_hits;
  // Gets that were answered with a value past its expiry because its load failed.
  uint64_t stand_ins;
  // Those of the hits in main that found that there is no value.
  uint64_t absent_hits;
  // Those of the entries in main that say that there is no value.
  uint64_t absent_items;
  // Entries this node owns.
  uint64_t main_items;
  // Mirrored entries.
  uint64_t hot_items;
  // The weight of the entries this node owns, in bytes: keys, values and overhead.
  uint64_t main_bytes;
  // The weight of the mirrored entries, in bytes.
  uint64_t hot_bytes;
  // Loads and fetches under way.
  uint64_t flights;
} groupcache_group_stats;

// What a node knows of itself. New fields are added at the end only.
typedef struct {
  // Peers of the ring, this node included.
  uint64_t peers;
  // Equal on two nodes exactly if they agree on who owns what.
  uint64_t ring;
  // Answers of peers whose ring was another one.
  uint64_t ring_mismatches;
  // Requests of peers that were refused, as they did not prove where they come from.
  uint64_t refused_requests;
  // Threads of the loader pool.
  uint64_t loader_threads;
  // Threads of the loader pool that are inside a loader.
  uint64_t loader_threads_busy;
  // Requests that were meant for another cluster or another peer, and were refused.
  uint64_t misdirected_requests;
} groupcache_node_stats;

// What a node knows of a peer.
typedef struct {
  // Its name on the ring. Valid until the peers are freed.
  const char *id;
  // Where it listens. Valid until the peers are freed.
  const char *address;
  // Its share of the keys, of 1.
  double ring_share;
  // Calls made to it.
  uint64_t calls;
  // Calls that failed: refused, silent, or with a protocol error.
  uint64_t call_errors;
  // Calls that were given up because their caller's time was over.
  uint64_t abandoned_calls;
  // Requests that were sent again, on another connection.
  uint64_t retries;
  // How often it was found to be unreachable.
  uint64_t circuit_openings;
  // Removals that it has missed, and that will be delivered when it is back.
  uint64_t pending_removals;
  // Whether it is this node.
  bool is_this_node;
  // Whether it has said that it leaves, and has not come back since: it then owns nothing.
  bool has_left;
  // Whether it is unreachable: it failed too often, and is probed until it answers.
  bool is_unreachable;
} groupcache_peer;



#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, such as "0.1.0". Valid for ever.
const char *groupcache_version(void);

// What went wrong, in words, when a call on this thread last failed: each function that does not
// return `GROUPCACHE_STATUS_OK`, or returns what it says means failure. Never `NULL`. Valid until
// the next call on this thread.
const char *groupcache_error_text(void);

// Makes a group of a node, which may hold up to `capacity_bytes` of keys, values and overhead. The
// node serves it until `groupcache_node_remove_group` or its own end, whatever becomes of handles.
//
// `user` goes to each call of `loader`. It is freed by `destructor`, which may be `NULL`, when no
// loader can be called any more, and also if this fails. `options` may be `NULL` if there are none.
groupcache_status groupcache_group_new(const groupcache_node *node,
                                       const char *name,
                                       size_t capacity_bytes,
                                       groupcache_loader loader,
                                       void *user,
                                       groupcache_destructor destructor,
                                       const groupcache_option *options,
                                       size_t options_len,
                                       groupcache_group **group_out);

// Gets the value of a key: from memory, from its owner or from the loader. Blocks until it is here,
// at most `timeout_ms`.
//
// With `GROUPCACHE_NEVER` a load runs on this thread. Else it runs on one of the node's, so that
// the timeout holds: a load that takes longer completes, and its value is cached.
//
// `GROUPCACHE_STATUS_NOT_FOUND` if there is no value. Free the value with `groupcache_value_free`.
groupcache_status groupcache_group_get(const groupcache_group *group,
                                       const char *key,
                                       size_t key_len,
                                       uint64_t timeout_ms,
                                       groupcache_value **value_out);

// Gets the value of a key if it is in the memory of this process, else
// `GROUPCACHE_STATUS_NOT_FOUND`. Never blocks, loads or fetches.
groupcache_status groupcache_group_try_get(const groupcache_group *group,
                                           const char *key,
                                           size_t key_len,
                                           groupcache_value **value_out);

// Gets the values of many keys, with one request for each owner. Blocks until all are here, at most
// `timeout_ms`. Each key has an outcome of its own: this fails only if an argument cannot be used.
//
// `keys` and `key_lens` have `count` entries each. Free the values with `groupcache_values_free`.
groupcache_status groupcache_group_get_many(const groupcache_group *group,
                                            const char *const *keys,
                                            const size_t *key_lens,
                                            size_t count,
                                            uint64_t timeout_ms,
                                            groupcache_values **values_out);

// Gives a key a value: at its owner, while all other nodes delete theirs. The bytes are copied.
// `ttl_ms` is as for `groupcache_load_value`. Blocks until all have answered or their time is up.
//
// `GROUPCACHE_STATUS_UNREACHED` if peers could not be told, whom the text names. They are told to
// remove theirs as soon as they answer; if the owner is among them, the value is not set.
groupcache_status groupcache_group_set(const groupcache_group *group,
                                       const char *key,
                                       size_t key_len,
                                       const uint8_t *bytes,
                                       size_t len,
                                       uint64_t ttl_ms);

// Removes the value of a key, from this node and from all peers. Blocks until all have answered or
// their time is up. A get that starts on any of them after this has returned sees no value whose
// load began before.
//
// `GROUPCACHE_STATUS_UNREACHED` if peers could not be told, whom the text names: it is removed
// everywhere else, and they are told again as soon as they answer.
groupcache_status groupcache_group_remove(const groupcache_group *group,
                                          const char *key,
                                          size_t key_len);

// Removes all values of this group, from this node and from all peers. Blocks and fails as
// `groupcache_group_remove`.
groupcache_status groupcache_group_clear(const groupcache_group *group);

// Tells what happened in this group on this node. `size` is `sizeof(groupcache_group_stats)`:
// so a program and a library of different versions agree on what both know. Fields that this
// library does not know are set to 0.
groupcache_status groupcache_group_get_stats(const groupcache_group *group,
                                             groupcache_group_stats *stats_out,
                                             size_t size);

// Frees a handle to a group. `NULL` is fine. The node goes on to serve the group. Where the node was
// freed before, this waits up to 1 s until no loader of the group runs any more and its destructor
// has returned.
void groupcache_group_free(groupcache_group *group);

// Gives the value that was loaded. The bytes are copied. `ttl_ms` is how long it lives, at most as
// long as the group allows; `GROUPCACHE_DEFAULT_TTL` for the group's default; 0 gives it to those
// who are waiting for it, and caches nothing. The last call counts.
groupcache_status groupcache_load_value(groupcache_load *load,
                                        const uint8_t *bytes,
                                        size_t len,
                                        uint64_t ttl_ms);

// Says why the load failed, in a text that ends with NUL and is copied. It becomes part of the
// error text of all who wait for the value.
groupcache_status groupcache_load_error(groupcache_load *load, const char *text);

// How many milliseconds are left until the one who asked first gives up; `GROUPCACHE_NEVER` if that
// one never does. A load that takes longer still completes, and its value is cached.
uint64_t groupcache_load_remaining_ms(const groupcache_load *load);

// Makes the node that peers reach at `address`, such as "http://10.0.0.5:7000". It is alone until
// `groupcache_node_set_peers`, and peers reach it once a server serves it. It starts no thread yet.
// `GROUPCACHE_STATUS_FORKED` in a child of a process that had a node when it forked.
// `options` may be `NULL` if there are none.
groupcache_status groupcache_node_new(const char *address,
                                      const groupcache_option *options,
                                      size_t options_len,
                                      groupcache_node **node_out);

// Replaces the list of all peers, by their addresses, this node included. Takes effect at once.
groupcache_status groupcache_node_set_peers(const groupcache_node *node,
                                            const char *const *addresses,
                                            size_t count);

// Adds a peer to the list.
groupcache_status groupcache_node_add_peer(const groupcache_node *node, const char *address);

// Removes a peer from the list; `GROUPCACHE_STATUS_NOT_FOUND` if it was not there.
groupcache_status groupcache_node_remove_peer(const groupcache_node *node, const char *address);

// Tells which peer owns a key, as this node sees it: its address, as a value.
groupcache_status groupcache_node_owner(const groupcache_node *node,
                                        const char *key,
                                        size_t key_len,
                                        groupcache_value **address_out);

// Stops serving a group and forgets it; `GROUPCACHE_STATUS_NOT_FOUND` if there is none of this
// name. Handles to it still serve their cache and load.
groupcache_status groupcache_node_remove_group(const groupcache_node *node, const char *name);

// Takes this node off the ring and hands over what it has in memory, for a process that is about to
// end; stop its server afterwards. Blocks until that is done, at most about `timeout_ms`.
// `GROUPCACHE_STATUS_UNREACHED` if peers could not be told, whom the text names.
groupcache_status groupcache_node_leave(const groupcache_node *node, uint64_t timeout_ms);

// Tells what this node knows of itself. `size` is `sizeof(groupcache_node_stats)`, as for
// `groupcache_group_get_stats`.
groupcache_status groupcache_node_get_stats(const groupcache_node *node,
                                            groupcache_node_stats *stats_out,
                                            size_t size);

// Frees a node, whatever it returns. `NULL` is fine. Its groups end and its threads stop, unless a
// server still serves it. Handles to its groups serve their cache and load, until they are freed too.
//
// Once its servers are stopped and the handles to its groups freed, no loader runs any more and all
// destructors have returned when this returns `GROUPCACHE_STATUS_OK`: the host may end. It waits for
// that up to `timeout_ms`, and returns `GROUPCACHE_STATUS_DEADLINE` if a loader still runs. The thread
// that runs it ends after it, and calls its destructor.
groupcache_status groupcache_node_close(groupcache_node *node,
                                        uint64_t timeout_ms);

// Frees a node, as `groupcache_node_close` with a timeout of 1 s, and does not tell whether that was
// enough. `groupcache_group_free` and `groupcache_server_stop` wait as long where the node was freed
// before.
void groupcache_node_free(groupcache_node *node);

// Tells what a node knows of its peers, itself included. Free it with `groupcache_peers_free`.
groupcache_status groupcache_node_peers(const groupcache_node *node, groupcache_peers **peers_out);

// How many peers there are. 0 for `NULL`.
size_t groupcache_peers_len(const groupcache_peers *peers);

// The peer at `index`. `size` is `sizeof(groupcache_peer)`, as for `groupcache_group_get_stats`.
groupcache_status groupcache_peers_get(const groupcache_peers *peers,
                                       size_t index,
                                       groupcache_peer *peer_out,
                                       size_t size);

// Frees the peers. `NULL` is fine.
void groupcache_peers_free(groupcache_peers *peers);

// Serves a node on `address`, such as "0.0.0.0:7000". Port 0 picks a free one.
groupcache_status groupcache_server_bind(const groupcache_node *node,
                                         const char *address,
                                         groupcache_server **server_out);

// Serves a node on a TCP socket that listens already, such as one that a service manager opened, or
// one whose port had to be known before the node was made. The socket belongs to the library from
// now on, also if this fails. On Unix only.
groupcache_status groupcache_server_from_fd(const groupcache_node *node,
                                            int fd,
                                            groupcache_server **server_out);

// The port that a server listens on. 0 if that is `NULL`, or of the process that this one was
// forked from.
uint16_t groupcache_server_port(const groupcache_server *server);

// Stops a server and frees it, whatever it returns. `NULL` is fine. It accepts nothing more, and
// requests under way have up to `timeout_ms` to be answered; `GROUPCACHE_STATUS_DEADLINE` if some
// were not. 0 stops at once. Where the node was freed before, this waits up to 1 s longer, as
// `groupcache_node_free` does.
groupcache_status groupcache_server_stop(groupcache_server *server, uint64_t timeout_ms);

// The bytes of a value, and how many they are. Not `NULL`, unless `value` is; not to be read if
// there are none. Valid until the value is freed. `len_out` may be `NULL`.
const uint8_t *groupcache_value_bytes(const groupcache_value *value, size_t *len_out);

// Frees a value. `NULL` is fine.
void groupcache_value_free(groupcache_value *value);

// How many keys there were. 0 for `NULL`.
size_t groupcache_values_len(const groupcache_values *values);

// How the get of the key at `index` ended, and if that is `GROUPCACHE_STATUS_OK` the bytes of its
// value, valid until the values are freed. Of others, `groupcache_error_text` has the text, as if
// this call had failed.
groupcache_status groupcache_values_get(const groupcache_values *values,
                                        size_t index,
                                        const uint8_t **bytes_out,
                                        size_t *len_out);

// Frees the values. `NULL` is fine.
void groupcache_values_free(groupcache_values *values);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GROUPCACHE_H */
