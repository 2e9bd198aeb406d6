// What the programs of these tests share.
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

// Gets a key that ends with NUL.
static inline groupcache_status get(const groupcache_group *group, const char *key,
                                    uint64_t timeout_ms, groupcache_value **value) {
  return groupcache_group_get(group, key, strlen(key), timeout_ms, value);
}

#endif
