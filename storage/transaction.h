// Engine::transaction, for the files that make up the engine. Thread: the writer's.
#pragma once

#include "storage/engine.h"

namespace wayside {

template <class Work>
Status Engine::transaction(Work work) {
  append_ms_ = clock_.wall_ms();
  WS_TRY(begin_.run());
  return finish(work());
}

}  // namespace wayside
