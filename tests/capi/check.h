// What the programs of these tests share.
#ifndef CHECK_H
#define CHECK_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "groupcache.h"

#define CHECK(condition)                                                                    \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      fprintf(stderr, "%s:%d: not so: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, \
              groupcache_error_text());                                                     \
      exit(1);                                                                              \
    }                                                                                       \
  } while (0)

#define CHECK_OK(call) CHECK((call) == GROUPCACHE_STATUS_OK)

// Whether the last error says so.
static inline int says(const char *part) { return strstr(groupcache_error_text(), part) != NULL; }

// Whether a value has the bytes of a text.
static inline int is(const groupcache_value *value, const char *text) {
  size_t len;
  const uint8_t *bytes = groupcache_value_bytes(value, &len);
  return len == strlen(text) && memcmp(bytes, text, len) == 0;
}

static inline void pause_briefly(void) {
  nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

// Waits until all other threads of this process have ended, as all handles are freed. The last of a
// group may have gone on a thread of the node, which then still has a few things to free.
static inline void wait_until_alone(void) {
  for (int patience = 60000; patience > 0; patience--) {
    int entries = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    while (readdir(tasks) != NULL) entries += 1;
    closedir(tasks);
    if (entries == 3) return; // itself, beside "." and ".."
    pause_briefly();
  }
  CHECK(!"alone in the end");
}

// Gets a key that ends with NUL.
static inline groupcache_status get(const groupcache_group *group, const char *key,
                                    uint64_t timeout_ms, groupcache_value **value) {
  return groupcache_group_get(group, key, strlen(key), timeout_ms, value);
}

#endif
