// Transactions, for the files that make up the engine. Thread: the writer's.
#pragma once

#include "storage/engine/engine.h"
#include "storage/engine/space.h"

namespace wayside {

template <class Work>
Status Engine::transaction(Work work) {
  append_ms_ = clock_.wall_ms();
  WS_TRY(begin_.run());
  return finish(work());
}

// What a start cannot do without: on a full disk the oldest records make room for it.
template <class Write>
Status with_room(Engine& engine, Write write) {
  Status done = write();
  for (int i = 0; i < 3 && !done && done.error().code == ErrorCode::no_space; ++i) {
    WS_TRY(engine.space().make_room());
    done = write();
  }
  return done;
}

}  // namespace wayside
