// A node does not survive fork: a child is told so, and harms nothing. Who forks first can have nodes
// on both sides.
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

struct handles {
  groupcache_node *node;
  groupcache_group *group;
  groupcache_server *server;
  groupcache_value *value;
};

static int32_t load(void *user, const char *key, size_t key_len, groupcache_load *load) {
  (void)user;
  return groupcache_load_value(load, (const uint8_t *)key, key_len, GROUPCACHE_DEFAULT_TTL);
}

static struct handles make(void) {
  struct handles made;
  CHECK_OK(groupcache_node_new("http://a:1", NULL, 0, &made.node));
  CHECK_OK(
      groupcache_group_new(made.node, "g", 1 << 20, load, NULL, NULL, NULL, 0, &made.group));
  CHECK_OK(groupcache_server_bind(made.node, "127.0.0.1:0", &made.server));
  CHECK_OK(get(made.group, "key", 60000, &made.value)); // on a loader thread
  return made;
}

static void free_all(struct handles made) {
  groupcache_server_stop(made.server, 0);
  groupcache_group_free(made.group);
  groupcache_node_free(made.node);
  groupcache_value_free(made.value);
}

static void child(struct handles parents) {
  groupcache_value *value;
  groupcache_values *values;
  groupcache_peers *peers;
  groupcache_group *group;
  groupcache_server *server;
  groupcache_group_stats group_stats;
  groupcache_node_stats node_stats;
  const char *key = "key";
  const size_t len = 3;
  const groupcache_status forked = GROUPCACHE_STATUS_FORKED;
  CHECK(get(parents.group, key, GROUPCACHE_NEVER, &value) == forked);
  CHECK(says("forked"));
  CHECK(groupcache_group_try_get(parents.group, key, len, &value) == forked);
  CHECK(groupcache_group_get_many(parents.group, &key, &len, 1, 0, &values) == forked);
  CHECK(groupcache_group_set(parents.group, key, len, NULL, 0, 0) == forked);
  CHECK(groupcache_group_remove(parents.group, key, len) == forked);
  CHECK(groupcache_group_clear(parents.group) == forked);
  CHECK(groupcache_group_get_stats(parents.group, &group_stats, sizeof group_stats) == forked);
  CHECK(groupcache_node_get_stats(parents.node, &node_stats, sizeof node_stats) == forked);
  CHECK(groupcache_node_peers(parents.node, &peers) == forked);
  CHECK(groupcache_node_set_peers(parents.node, NULL, 0) == forked);
  CHECK(groupcache_node_add_peer(parents.node, "http://b:1") == forked);
  CHECK(groupcache_node_remove_peer(parents.node, "http://b:1") == forked);
  CHECK(groupcache_node_leave(parents.node, 0) == forked);
  CHECK(groupcache_node_remove_group(parents.node, "g") == forked);
  CHECK(groupcache_node_owner(parents.node, key, len, &value) == forked);
  CHECK(groupcache_group_new(parents.node, "h", 1 << 20, load, NULL, NULL, NULL, 0, &group) ==
        forked);
  CHECK(groupcache_server_bind(parents.node, "127.0.0.1:0", &server) == forked);
  CHECK(groupcache_server_port(parents.server) == 0);
  CHECK(is(parents.value, "key"));
  groupcache_node *own;
  CHECK(groupcache_node_new("http://a:1", NULL, 0, &own) == forked);
  CHECK(groupcache_server_stop(parents.server, 1000) == forked);
  parents.server = NULL;
  free_all(parents);
}

// Waits for a child, which has succeeded.
static void await(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

// Forks. A child that hangs is a failure, not a wait for ever.
static pid_t fork_briefly(void) {
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) alarm(120);
  return pid;
}

int main(void) {
  pid_t worker = fork_briefly();
  struct handles made = make();
  CHECK(is(made.value, "key"));
  if (worker == 0) {
    free_all(made);
    _exit(0);
  }
  for (int i = 0; i < 20; i++) {
    pid_t pid = fork_briefly();
    if (pid == 0) {
      child(made);
      _exit(0);
    }
    await(pid);
    groupcache_value *value;
    CHECK_OK(get(made.group, "another", 60000, &value));
    groupcache_value_free(value);
  }
  free_all(made);
  await(worker);
  // Nothing is left, so a child may begin anew.
  pid_t late = fork_briefly();
  if (late == 0) {
    free_all(make());
    _exit(0);
  }
  await(late);
  puts("all is as it should be");
  return 0;
}
