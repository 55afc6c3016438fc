// WS_CHECK stays on in release builds, for what only a bug can cause: a gateway with a broken
// invariant stops (and is started again by systemd) before it acknowledges anything.
#pragma once

#include <cstdio>
#include <cstdlib>

#define WS_CHECK(condition)                                                                  \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      std::fprintf(stderr, "<0>wayside: bug: %s does not hold at %s:%d; please report it\n", \
                   #condition, __FILE__, __LINE__);                                          \
      std::abort();                                                                          \
    }                                                                                        \
  } while (false)
