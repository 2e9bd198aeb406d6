// Every function, in one process, for valgrind to watch. With an argument it forgets to free a value.
#include <pthread.h>
#include <semaphore.h>

#include "check.h"

// Programs that were compiled years ago know these numbers.
_Static_assert(sizeof(groupcache_status) == 4, "a status is 32 bits");
_Static_assert(GROUPCACHE_STATUS_OK == 0 && GROUPCACHE_STATUS_NOT_FOUND == 1 &&
                   GROUPCACHE_STATUS_LOAD == 2 && GROUPCACHE_STATUS_PANICKED == 3 &&
                   GROUPCACHE_STATUS_OWNER_LOAD == 4 && GROUPCACHE_STATUS_CYCLE == 5 &&
                   GROUPCACHE_STATUS_DEADLINE == 6 && GROUPCACHE_STATUS_OVERLOADED == 7 &&
                   GROUPCACHE_STATUS_KEY_TOO_LONG == 8 && GROUPCACHE_STATUS_VALUE_TOO_LARGE == 9 &&
                   GROUPCACHE_STATUS_ENCODE == 10 && GROUPCACHE_STATUS_UNREACHED == 11 &&
                   GROUPCACHE_STATUS_SELF_MISSING == 12 && GROUPCACHE_STATUS_INVALID_PEER == 13 &&
                   GROUPCACHE_STATUS_INVALID_SETTING == 14 &&
                   GROUPCACHE_STATUS_GROUP_EXISTS == 15 && GROUPCACHE_STATUS_BIND == 16 &&
                   GROUPCACHE_STATUS_THREAD == 17 && GROUPCACHE_STATUS_TLS == 18 &&
                   GROUPCACHE_STATUS_NULL_POINTER == 100 && GROUPCACHE_STATUS_INVALID_UTF8 == 101 &&
                   GROUPCACHE_STATUS_INVALID_ARGUMENT == 102 && GROUPCACHE_STATUS_FORKED == 103 &&
                   GROUPCACHE_STATUS_PANIC == 104,
               "the numbers of statuses never change");
_Static_assert(GROUPCACHE_SETTING_CONNECT_TIMEOUT_MS == 1 &&
                   GROUPCACHE_SETTING_FETCH_TIMEOUT_MS == 2 &&
                   GROUPCACHE_SETTING_LOAD_TIMEOUT_MS == 3 &&
                   GROUPCACHE_SETTING_FALLBACK_LIFE_MS == 4 &&
                   GROUPCACHE_SETTING_CIRCUIT_FAILURES == 5 &&
                   GROUPCACHE_SETTING_LOADER_THREADS == 6 && GROUPCACHE_SETTING_MAX_VALUE == 7 &&
                   GROUPCACHE_SETTING_ALLOW_ABSENT == 8 && GROUPCACHE_SETTING_GOLANG == 9 &&
                   GROUPCACHE_SETTING_SECRET_FILE == 10 &&
                   GROUPCACHE_SETTING_UNSIGNED_READS == 11 &&
                   GROUPCACHE_SETTING_TLS_CERTIFICATE_FILE == 12 &&
                   GROUPCACHE_SETTING_TLS_KEY_FILE == 13 &&
                   GROUPCACHE_SETTING_TLS_AUTHORITY_FILE == 14 &&
                   GROUPCACHE_SETTING_TLS_CLIENT_CERTIFICATES == 15 &&
                   GROUPCACHE_SETTING_WARM_UP_MS == 16 && GROUPCACHE_SETTING_CLUSTER == 17,
               "the numbers of settings never change");
_Static_assert(GROUPCACHE_SETTING_TTL_MS == 101 && GROUPCACHE_SETTING_MAX_TTL_MS == 102 &&
                   GROUPCACHE_SETTING_TTL_JITTER_PERCENT == 103 &&
                   GROUPCACHE_SETTING_HOT_BYTES == 104 && GROUPCACHE_SETTING_HOT_TTL_MS == 105 &&
                   GROUPCACHE_SETTING_HOT_THRESHOLD_PER_MINUTE == 106 &&
                   GROUPCACHE_SETTING_HAND_ON_LOAD_ERRORS == 107 &&
                   GROUPCACHE_SETTING_NEGATIVE_TTL_MS == 108 &&
                   GROUPCACHE_SETTING_MAX_LOADS == 109 &&
                   GROUPCACHE_SETTING_STALE_WHILE_REVALIDATE_MS == 110 &&
                   GROUPCACHE_SETTING_STALE_IF_ERROR_MS == 111 &&
                   GROUPCACHE_SETTING_SHARDS == 112 &&
                   GROUPCACHE_SETTING_ERROR_TTL_MS == 113,
               "the numbers of settings never change");

enum { THREADS = 8 };

// What the loader is called with.
struct source {
  groupcache_group *group;
  sem_t go_on;
  int freed;
};

static void source_free(void *user) { ((struct source *)user)->freed += 1; }

static groupcache_group_stats stats_of(const groupcache_group *group) {
  groupcache_group_stats stats;
  CHECK_OK(groupcache_group_get_stats(group, &stats, sizeof stats));
  return stats;
}

static int is_key(const char *key, size_t key_len, const char *text) {
  return key_len == strlen(text) && memcmp(key, text, key_len) == 0;
}

// The value of a key is "value of KEY". Some keys are special.
static int32_t load(void *user, const char *key, size_t key_len, groupcache_load *load) {
  struct source *source = user;
  char value[64];
  uint64_t ttl = GROUPCACHE_DEFAULT_TTL;
  if (is_key(key, key_len, "missing")) return GROUPCACHE_STATUS_NOT_FOUND;
  if (is_key(key, key_len, "forgotten")) return GROUPCACHE_STATUS_OK;
  if (is_key(key, key_len, "silent")) return 77;
  if (is_key(key, key_len, "broken")) {
    CHECK_OK(groupcache_load_error(load, "the database is on fire"));
    return GROUPCACHE_STATUS_LOAD;
  }
  if (is_key(key, key_len, "itself")) {
    groupcache_value *never;
    CHECK(get(source->group, "itself", GROUPCACHE_NEVER, &never) == GROUPCACHE_STATUS_CYCLE);
    CHECK(groupcache_load_remaining_ms(load) == GROUPCACHE_NEVER);
  }
  if (is_key(key, key_len, "slow")) {
    uint64_t remaining = groupcache_load_remaining_ms(load);
    CHECK(remaining <= 50);
    CHECK(sem_wait(&source->go_on) == 0);
  }
  if (is_key(key, key_len, "herd")) {
    // Goes on when all others wait for it.
    while (stats_of(source->group).joined < THREADS - 1) {
      pause_briefly();
    }
  }
  if (is_key(key, key_len, "fleeting")) ttl = 0;
  if (is_key(key, key_len, "empty")) return groupcache_load_value(load, NULL, 0, ttl);
  int len = snprintf(value, sizeof value, "value of %.*s", (int)key_len, key);
  CHECK(groupcache_load_value(load, NULL, 1, ttl) == GROUPCACHE_STATUS_NULL_POINTER);
  return groupcache_load_value(load, (const uint8_t *)value, (size_t)len, ttl);
}

static void *get_herd(void *group) {
  groupcache_value *value;
  CHECK_OK(get(group, "herd", GROUPCACHE_NEVER, &value));
  CHECK(is(value, "value of herd"));
  groupcache_value_free(value);
  return NULL;
}

static void check_errors(const groupcache_node *node) {
  groupcache_node *no_node = NULL;
  groupcache_group *no_group = NULL;
  groupcache_value *no_value = NULL;
  struct source source = {.freed = 0};
  CHECK(groupcache_node_new(NULL, NULL, 0, &no_node) == GROUPCACHE_STATUS_NULL_POINTER);
  CHECK(says("address"));
  CHECK(groupcache_node_new("http://a:1", NULL, 0, NULL) == GROUPCACHE_STATUS_NULL_POINTER);
  CHECK(groupcache_node_new("a:1", NULL, 0, &no_node) == GROUPCACHE_STATUS_INVALID_PEER);
  CHECK(says("http://"));
  CHECK(groupcache_node_new("http://\xff:1", NULL, 0, &no_node) == GROUPCACHE_STATUS_INVALID_UTF8);
  groupcache_option options[] = {{.setting = GROUPCACHE_SETTING_TTL_MS, .number = 1}};
  CHECK(groupcache_node_new("http://a:1", options, 1, &no_node) ==
        GROUPCACHE_STATUS_INVALID_ARGUMENT);
  options[0] = (groupcache_option){.setting = GROUPCACHE_SETTING_ALLOW_ABSENT, .number = 2};
  CHECK(groupcache_node_new("http://a:1", options, 1, &no_node) ==
        GROUPCACHE_STATUS_INVALID_ARGUMENT);
  options[0] = (groupcache_option){.setting = GROUPCACHE_SETTING_LOADER_THREADS, .number = 0};
  CHECK(groupcache_node_new("http://a:1", options, 1, &no_node) ==
        GROUPCACHE_STATUS_INVALID_SETTING);
  options[0] = (groupcache_option){.setting = GROUPCACHE_SETTING_SECRET_FILE, .text = "/no/such"};
  CHECK(groupcache_node_new("http://a:1", options, 1, &no_node) ==
        GROUPCACHE_STATUS_INVALID_SETTING);
  // Whatever fails, what a group would have been made with is freed.
  CHECK(groupcache_group_new(node, "g", 1 << 20, NULL, &source, source_free, NULL, 0, &no_group) ==
        GROUPCACHE_STATUS_NULL_POINTER);
  CHECK(groupcache_group_new(NULL, "g", 1 << 20, load, &source, source_free, NULL, 0, &no_group) ==
        GROUPCACHE_STATUS_NULL_POINTER);
  CHECK(groupcache_group_new(node, "g", 1, load, &source, source_free, NULL, 0, &no_group) ==
        GROUPCACHE_STATUS_INVALID_SETTING);
  CHECK(groupcache_group_new(node, "things", 1 << 20, load, &source, source_free, NULL, 0,
                             &no_group) == GROUPCACHE_STATUS_GROUP_EXISTS);
  CHECK(source.freed == 4);
  CHECK(get(NULL, "k", 0, &no_value) == GROUPCACHE_STATUS_NULL_POINTER);
  CHECK(groupcache_node_add_peer(node, "nonsense") == GROUPCACHE_STATUS_INVALID_PEER);
  CHECK(groupcache_node_set_peers(node, (const char *[]){"http://b:1"}, 1) ==
        GROUPCACHE_STATUS_SELF_MISSING);
  CHECK(groupcache_node_set_peers(node, (const char *[]){NULL}, 1) ==
        GROUPCACHE_STATUS_NULL_POINTER);
  CHECK(groupcache_node_remove_group(node, "unknown") == GROUPCACHE_STATUS_NOT_FOUND);
  CHECK(no_node == NULL && no_group == NULL && no_value == NULL);
  // To free nothing is fine.
  groupcache_node_free(NULL);
  groupcache_group_free(NULL);
  groupcache_value_free(NULL);
  groupcache_values_free(NULL);
  groupcache_peers_free(NULL);
  CHECK_OK(groupcache_server_stop(NULL, 0));
  CHECK(groupcache_value_bytes(NULL, NULL) == NULL);
  CHECK(groupcache_values_len(NULL) == 0 && groupcache_peers_len(NULL) == 0);
}

static void check_gets(groupcache_group *group, struct source *source) {
  groupcache_value *value, *same;
  CHECK(groupcache_group_try_get(group, "a", 1, &value) == GROUPCACHE_STATUS_NOT_FOUND);
  CHECK_OK(get(group, "a", GROUPCACHE_NEVER, &value));
  CHECK_OK(groupcache_group_try_get(group, "a", 1, &same));
  CHECK(is(value, "value of a") && is(same, "value of a"));
  CHECK(groupcache_value_bytes(value, NULL) == groupcache_value_bytes(same, NULL));
  groupcache_value_free(same);
  groupcache_value_free(value);
  CHECK_OK(groupcache_group_get(group, "x\0y", 3, 60000, &value));
  CHECK(is(value, "value of x")); // what its loader makes of the NUL
  groupcache_value_free(value);
  CHECK_OK(groupcache_group_get(group, NULL, 0, 60000, &value));
  CHECK(is(value, "value of "));
  groupcache_value_free(value);
  CHECK_OK(get(group, "empty", 60000, &value));
  CHECK(is(value, "") && groupcache_value_bytes(value, NULL) != NULL);
  groupcache_value_free(value);
  CHECK_OK(get(group, "fleeting", 60000, &value));
  groupcache_value_free(value);
  CHECK(groupcache_group_try_get(group, "fleeting", 8, &value) == GROUPCACHE_STATUS_NOT_FOUND);
  CHECK_OK(get(group, "itself", GROUPCACHE_NEVER, &value));
  groupcache_value_free(value);
  CHECK(get(group, "missing", 60000, &value) == GROUPCACHE_STATUS_NOT_FOUND);
  CHECK(get(group, "broken", 60000, &value) == GROUPCACHE_STATUS_LOAD);
  CHECK(says("the database is on fire"));
  CHECK(get(group, "forgotten", 60000, &value) == GROUPCACHE_STATUS_LOAD);
  CHECK(says("no value"));
  CHECK(get(group, "silent", 60000, &value) == GROUPCACHE_STATUS_LOAD);
  CHECK(says("77"));
  CHECK(groupcache_group_get(group, "\xff", 1, 0, &value) == GROUPCACHE_STATUS_INVALID_UTF8);
  CHECK(groupcache_group_get(group, NULL, 1, 0, &value) == GROUPCACHE_STATUS_NULL_POINTER);
  CHECK(groupcache_group_get(group, "a", SIZE_MAX, 0, &value) ==
        GROUPCACHE_STATUS_INVALID_ARGUMENT);
  // Its time is over; the load goes on, and its value is there for whoever comes later.
  CHECK(get(group, "slow", 50, &value) == GROUPCACHE_STATUS_DEADLINE);
  CHECK(sem_post(&source->go_on) == 0);
  while (groupcache_group_try_get(group, "slow", 4, &value) == GROUPCACHE_STATUS_NOT_FOUND) {
    pause_briefly();
  }
  CHECK(is(value, "value of slow"));
  groupcache_value_free(value);
}

static void check_one_load(groupcache_group *group) {
  pthread_t threads[THREADS];
  uint64_t before = stats_of(group).loads;
  for (int i = 0; i < THREADS; i++) {
    CHECK(pthread_create(&threads[i], NULL, get_herd, group) == 0);
  }
  for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(stats_of(group).loads == before + 1);
}

static void check_many(const groupcache_group *group) {
  const char *keys[] = {"b", "missing", "broken", "b", "empty"};
  const size_t lens[] = {1, 7, 6, 1, 5};
  groupcache_values *values;
  const uint8_t *bytes;
  size_t len;
  CHECK_OK(groupcache_group_get_many(group, keys, lens, 5, 60000, &values));
  CHECK(groupcache_values_len(values) == 5);
  for (size_t i = 0; i < 4; i += 3) {
    CHECK_OK(groupcache_values_get(values, i, &bytes, &len));
    CHECK(len == 10 && memcmp(bytes, "value of b", len) == 0);
  }
  CHECK(groupcache_values_get(values, 1, &bytes, &len) == GROUPCACHE_STATUS_NOT_FOUND);
  CHECK(groupcache_values_get(values, 2, &bytes, &len) == GROUPCACHE_STATUS_LOAD);
  CHECK(says("the database is on fire"));
  CHECK_OK(groupcache_values_get(values, 4, &bytes, &len));
  CHECK(len == 0);
  CHECK(groupcache_values_get(values, 5, &bytes, &len) == GROUPCACHE_STATUS_INVALID_ARGUMENT);
  CHECK(groupcache_values_get(values, 0, NULL, &len) == GROUPCACHE_STATUS_NULL_POINTER);
  groupcache_values_free(values);
  CHECK_OK(groupcache_group_get_many(group, NULL, NULL, 0, 0, &values));
  CHECK(groupcache_values_len(values) == 0);
  groupcache_values_free(values);
  CHECK(groupcache_group_get_many(group, keys, NULL, 5, 0, &values) ==
        GROUPCACHE_STATUS_NULL_POINTER);
}

static void check_changes(const groupcache_group *group) {
  groupcache_value *value, *old;
  CHECK_OK(get(group, "c", 60000, &old));
  CHECK_OK(groupcache_group_set(group, "c", 1, (const uint8_t *)"new", 3, GROUPCACHE_DEFAULT_TTL));
  CHECK_OK(get(group, "c", 60000, &value));
  CHECK(is(value, "new") && is(old, "value of c"));
  groupcache_value_free(value);
  groupcache_value_free(old);
  CHECK_OK(groupcache_group_remove(group, "c", 1));
  CHECK(groupcache_group_try_get(group, "c", 1, &value) == GROUPCACHE_STATUS_NOT_FOUND);
  CHECK_OK(groupcache_group_set(group, "c", 1, (const uint8_t *)"brief", 5, 0));
  CHECK(groupcache_group_try_get(group, "c", 1, &value) == GROUPCACHE_STATUS_NOT_FOUND);
  CHECK(stats_of(group).main_items > 0);
  CHECK_OK(groupcache_group_clear(group));
  CHECK(stats_of(group).main_items == 0);
}

// On a node of its own: one that has removed something tells new peers of it.
static void check_peers(void) {
  groupcache_node *node;
  groupcache_node_stats stats;
  groupcache_peers *peers;
  groupcache_peer peer;
  groupcache_value *owner;
  double share = 0;
  int here = 0;
  CHECK_OK(groupcache_node_new("http://a:1", NULL, 0, &node));
  CHECK_OK(groupcache_node_set_peers(node, (const char *[]){"http://a:1", "http://b:1"}, 2));
  CHECK_OK(groupcache_node_add_peer(node, "http://c:1"));
  CHECK_OK(groupcache_node_get_stats(node, &stats, sizeof stats));
  CHECK(stats.peers == 3 && stats.ring != 0);
  CHECK_OK(groupcache_node_peers(node, &peers));
  CHECK(groupcache_peers_len(peers) == 3);
  for (size_t i = 0; i < 3; i++) {
    CHECK_OK(groupcache_peers_get(peers, i, &peer, sizeof peer));
    share += peer.ring_share;
    here += peer.is_this_node;
    CHECK(peer.is_this_node == (strcmp(peer.address, "http://a:1") == 0));
    CHECK(strcmp(peer.id, peer.address) == 0 && peer.calls == 0 && !peer.is_unreachable && !peer.has_left);
  }
  CHECK(here == 1 && share > 0.999 && share < 1.001);
  CHECK(groupcache_peers_get(peers, 3, &peer, sizeof peer) == GROUPCACHE_STATUS_INVALID_ARGUMENT);
  groupcache_peers_free(peers);
  CHECK_OK(groupcache_node_owner(node, "key", 3, &owner));
  CHECK(is(owner, "http://a:1") || is(owner, "http://b:1") || is(owner, "http://c:1"));
  groupcache_value_free(owner);
  CHECK_OK(groupcache_node_remove_peer(node, "http://c:1"));
  CHECK(groupcache_node_remove_peer(node, "http://c:1") == GROUPCACHE_STATUS_NOT_FOUND);
  groupcache_node_free(node);
}

static void check_server(const groupcache_node *node) {
  groupcache_server *server, *second;
  char taken[32];
  CHECK_OK(groupcache_server_bind(node, "127.0.0.1:0", &server));
  CHECK(groupcache_server_port(server) != 0 && groupcache_server_port(NULL) == 0);
  snprintf(taken, sizeof taken, "127.0.0.1:%u", groupcache_server_port(server));
  CHECK(groupcache_server_bind(node, taken, &second) == GROUPCACHE_STATUS_BIND);
  CHECK(groupcache_server_bind(node, "nowhere", &second) == GROUPCACHE_STATUS_BIND);
  CHECK(groupcache_server_from_fd(node, -1, &second) == GROUPCACHE_STATUS_INVALID_ARGUMENT);
  CHECK_OK(groupcache_node_leave(node, 1000)); // to nobody, as it is alone
  CHECK_OK(groupcache_server_stop(server, 1000));
}

int main(int argc, char **argv) {
  (void)argv;
  struct source source = {.freed = 0};
  groupcache_node *node;
  groupcache_value *last;
  const groupcache_option node_options[] = {
      {.setting = GROUPCACHE_SETTING_CONNECT_TIMEOUT_MS, .number = 300},
      {.setting = GROUPCACHE_SETTING_LOADER_THREADS, .number = 4},
  };
  const groupcache_option group_options[] = {
      {.setting = GROUPCACHE_SETTING_TTL_MS, .number = 3600000},
      {.setting = GROUPCACHE_SETTING_TTL_JITTER_PERCENT, .number = 10},
      {.setting = GROUPCACHE_SETTING_SHARDS, .number = 2},
  };
  CHECK(strcmp(groupcache_version(), GROUPCACHE_VERSION) == 0);
  CHECK(strcmp(groupcache_error_text(), "") == 0);
  CHECK(sem_init(&source.go_on, 0, 0) == 0);
  CHECK_OK(groupcache_node_new("http://a:1", node_options, 2, &node));
  CHECK_OK(groupcache_group_new(node, "things", 1 << 20, load, &source, source_free, group_options,
                                3, &source.group));
  check_errors(node);
  check_gets(source.group, &source);
  check_one_load(source.group);
  check_many(source.group);
  check_changes(source.group);
  check_peers();
  check_server(node);
  // A group outlives its node, and a value all of them. What the loader needs goes last.
  groupcache_node_free(node);
  CHECK_OK(get(source.group, "last", 60000, &last));
  CHECK(source.freed == 0);
  groupcache_group_free(source.group);
  wait_until_alone();
  CHECK(source.freed == 1);
  CHECK(is(last, "value of last"));
  if (argc == 1) groupcache_value_free(last);
  sem_destroy(&source.go_on);
  puts("all is as it should be");
  return 0;
}
