// A process of a cluster: it does what it is told on stdin, a line at a time.
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "check.h"

enum { MOST_WORDS = 128 };

static int32_t load(void *user, const char *key, size_t key_len, groupcache_load *load) {
  char value[256];
  (void)user;
  int len = snprintf(value, sizeof value, "value of %.*s", (int)key_len, key);
  return groupcache_load_value(load, (const uint8_t *)value, (size_t)len, GROUPCACHE_DEFAULT_TTL);
}

// A socket that listens on a free port of this host.
static int listen_anywhere(uint16_t *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
  CHECK(listen(fd, 128) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
  *port = ntohs(address.sin_port);
  return fd;
}

static void answer(groupcache_status status) {
  if (status == GROUPCACHE_STATUS_OK) {
    puts("ok");
  } else {
    printf("%" PRId32 " %s\n", status, groupcache_error_text());
  }
}

static void answer_value(groupcache_status status, groupcache_value *value) {
  size_t len;
  if (status != GROUPCACHE_STATUS_OK) {
    answer(status);
    return;
  }
  const uint8_t *bytes = groupcache_value_bytes(value, &len);
  printf("ok %.*s\n", (int)len, (const char *)bytes);
  groupcache_value_free(value);
}

static void answer_many(const groupcache_group *group, const char *const *keys, size_t count) {
  size_t lens[MOST_WORDS];
  groupcache_values *values;
  for (size_t i = 0; i < count; i++) lens[i] = strlen(keys[i]);
  CHECK_OK(groupcache_group_get_many(group, keys, lens, count, 60000, &values));
  printf("ok");
  for (size_t i = 0; i < count; i++) {
    const uint8_t *bytes;
    size_t len;
    CHECK_OK(groupcache_values_get(values, i, &bytes, &len));
    printf(" [%.*s]", (int)len, (const char *)bytes);
  }
  puts("");
  groupcache_values_free(values);
}

static void answer_stats(const groupcache_group *group) {
  groupcache_group_stats stats;
  CHECK_OK(groupcache_group_get_stats(group, &stats, sizeof stats));
  printf("ok %" PRIu64 " %" PRIu64 "\n", stats.loads, stats.fetches);
}

// Does what a line says. Whether there may be more.
static int obey(const groupcache_node *node, const groupcache_group *group, char *line) {
  const char *words[MOST_WORDS] = {NULL};
  size_t count = 0;
  for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n")) {
    CHECK(count < MOST_WORDS);
    words[count++] = word;
  }
  CHECK(count > 0);
  const char *verb = words[0], *key = words[1];
  groupcache_value *value = NULL;
  if (strcmp(verb, "quit") == 0) return 0;
  if (strcmp(verb, "peers") == 0) {
    answer(groupcache_node_set_peers(node, words + 1, count - 1));
  } else if (strcmp(verb, "get") == 0) {
    groupcache_status status = get(group, key, 60000, &value);
    answer_value(status, value);
  } else if (strcmp(verb, "many") == 0) {
    answer_many(group, words + 1, count - 1);
  } else if (strcmp(verb, "set") == 0) {
    answer(groupcache_group_set(group, key, strlen(key), (const uint8_t *)words[2],
                                strlen(words[2]), GROUPCACHE_DEFAULT_TTL));
  } else if (strcmp(verb, "remove") == 0) {
    answer(groupcache_group_remove(group, key, strlen(key)));
  } else if (strcmp(verb, "stats") == 0) {
    answer_stats(group);
  } else {
    CHECK(!"a known verb");
  }
  return 1;
}

int main(void) {
  uint16_t port;
  char url[64], line[16384];
  groupcache_node *node;
  groupcache_group *group;
  groupcache_server *server;
  int fd = listen_anywhere(&port);
  snprintf(url, sizeof url, "http://127.0.0.1:%u", port);
  // Under valgrind everything takes long: a peer that does is not away.
  const groupcache_option patience[] = {
      {.setting = GROUPCACHE_SETTING_CONNECT_TIMEOUT_MS, .number = 30000},
      {.setting = GROUPCACHE_SETTING_FETCH_TIMEOUT_MS, .number = 30000},
  };
  CHECK_OK(groupcache_node_new(url, patience, 2, &node));
  CHECK_OK(groupcache_group_new(node, "things", 1 << 20, load, NULL, NULL, NULL, 0, &group));
  CHECK_OK(groupcache_server_from_fd(node, fd, &server));
  CHECK(groupcache_server_port(server) == port);
  printf("ready %s\n", url);
  fflush(stdout);
  while (fgets(line, sizeof line, stdin) != NULL && obey(node, group, line)) fflush(stdout);
  CHECK_OK(groupcache_server_stop(server, 10000));
  groupcache_node_free(node);
  groupcache_group_free(group);
  wait_until_alone();
  return 0;
}
