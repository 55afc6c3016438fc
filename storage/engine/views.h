// Views: what plain sqlite3 shows. A chain's view is the union of its segments; a topic's view
// picks its partitions and shows JSON fields as columns. Thread: the writer's.
#pragma once

#include <string>

#include "storage/catalog.h"
#include "storage/sqlite/sqlite.h"

namespace wayside {

// Both within a transaction of the caller; they read _ws_segments and replace the view.
[[nodiscard]] Status write_chain_view(Database& db, ChainId chain);
[[nodiscard]] Status write_topic_view(Database& db, const Topic& topic);

// A field of the payload that can be a column: an identifier that no built-in column has.
[[nodiscard]] bool can_be_learnt(std::string_view field);

}  // namespace wayside
