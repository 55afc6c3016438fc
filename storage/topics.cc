// Topics: brought to what the configuration wants. Nothing is ever deleted here.
#include <algorithm>

#include "base/limits.h"
#include "base/text.h"
#include "storage/transaction.h"

namespace wayside {

namespace {

bool differs(const Topic& topic, const TopicSpec& spec) {
  return static_cast<std::int32_t>(topic.partitions.size()) != spec.partitions ||
         topic.retention_ms != spec.retention_ms || topic.retention_bytes != spec.retention_bytes ||
         topic.columns != spec.columns;
}

}  // namespace

Result<std::vector<std::string>> Engine::ensure_topics(std::span<const TopicSpec> specs) {
  std::vector<std::string> warnings;
  bool changed = false;
  for (const TopicSpec& spec : specs) {
    WS_TRY(check_topic_name(spec.name));
    const Topic* topic = catalog_.find(spec.name);
    if (topic == nullptr) {
      WS_TRY(transaction([&] { return create_topic(spec); }));
      changed = true;
      // Its chain may be new, and the next topic's.
      WS_TRY(load());
    } else if (differs(*topic, spec)) {
      const Topic copy = *topic;
      WS_TRY(transaction([&] { return alter_topic(copy, spec, warnings); }));
      changed = true;
    }
  }
  if (changed) WS_TRY(load());
  views_stale_ = topic_views_stale_ = true;
  return warnings;
}

Status Engine::create_topic(const TopicSpec& spec) {
  std::int64_t partitions = spec.partitions;
  for (const Topic& t : catalog_.topics()) {
    partitions += static_cast<std::int64_t>(t.partitions.size());
  }
  if (catalog_.topics().size() >= limits::kTopicsMax || partitions > limits::kPartitionsMax) {
    return fail(ErrorCode::refused,
                cat("topic ", spec.name, " would be beyond ", limits::kTopicsMax, " topics or ",
                    limits::kPartitionsMax, " partitions of one gateway"));
  }
  WS_ASSIGN(const ChainId chain, chain_for(spec));
  const std::string uuid = random_uuid();
  const std::string columns = spec.columns ? json_array(*spec.columns) : "";
  WS_ASSIGN(Statement s,
            db_.prepare("INSERT INTO _ws_topics(uuid, name, chain, retention_ms, retention_bytes,"
                        " columns, created_ms) VALUES(?1,?2,?3,?4,?5,?6,?7) RETURNING topic_id"));
  s.bind_text(1, uuid).bind_text(2, spec.name).bind(3, chain.value).bind(4, spec.retention_ms);
  s.bind(5, spec.retention_bytes).bind(7, append_ms_);
  if (spec.columns) {
    s.bind_text(6, columns);
  } else {
    s.bind_null(6);
  }
  WS_ASSIGN(const bool row, s.step());
  const TopicId id(row ? static_cast<std::int32_t>(s.integer(0)) : 0);
  s.reset();
  return add_partitions(id, 0, spec.partitions);
}

Status Engine::add_partitions(TopicId id, std::int32_t from, std::int32_t to) {
  WS_ASSIGN(Statement s,
            db_.prepare("INSERT INTO _ws_partitions(topic_id, partition) VALUES(?1, ?2)"));
  for (std::int32_t p = from; p < to; ++p) WS_TRY(s.bind(1, id.value).bind(2, p).run());
  return {};
}

// Topics of one retention by time share a chain, because what a commit costs is the number of
// places it writes to; a topic with a bound in bytes has its own, because the bound is kept by
// dropping the chain's segments.
Result<ChainId> Engine::chain_for(const TopicSpec& spec) {
  if (spec.retention_bytes == kUnbounded) {
    for (const Chain& c : chains_) {
      if (c.retention_bytes == kUnbounded && c.retention_ms == spec.retention_ms) return c.id;
    }
  }
  WS_ASSIGN(Statement s, db_.prepare("INSERT INTO _ws_chains(retention_ms, retention_bytes,"
                                     " segment_rows) VALUES(?1,?2,?3) RETURNING chain"));
  s.bind(1, spec.retention_ms).bind(2, spec.retention_bytes).bind(3, options_.segment_rows);
  WS_ASSIGN(const bool row, s.step());
  const ChainId id(row ? static_cast<std::int32_t>(s.integer(0)) : 0);
  s.reset();
  WS_TRY(open_segment(id, 1));
  return id;
}

Status Engine::alter_topic(const Topic& topic, const TopicSpec& spec,
                           std::vector<std::string>& warnings) {
  const auto now = static_cast<std::int32_t>(topic.partitions.size());
  if (spec.partitions > now) {
    WS_TRY(add_partitions(topic.id, now, spec.partitions));
    warnings.push_back(
        cat("topic ", topic.name, " grew from ", now, " to ", spec.partitions,
            " partitions: from now on most keys go to another partition than before"));
  } else if (spec.partitions < now) {
    warnings.push_back(cat("topic ", topic.name, " keeps its ", now,
                           " partitions: a topic cannot shrink to ", spec.partitions));
  }
  std::int64_t retention_bytes = spec.retention_bytes;
  if ((spec.retention_bytes == kUnbounded) != (topic.retention_bytes == kUnbounded)) {
    retention_bytes = topic.retention_bytes;
    warnings.push_back(cat("topic ", topic.name,
                           " keeps its retention_bytes: a bound in bytes can "
                           "only be given to a topic, or taken away, when it is created"));
  }
  const std::string columns = spec.columns ? json_array(*spec.columns) : "";
  WS_ASSIGN(Statement s, db_.prepare("UPDATE _ws_topics SET retention_ms=?2, retention_bytes=?3,"
                                     " columns=?4 WHERE topic_id=?1"));
  s.bind(1, topic.id.value).bind(2, spec.retention_ms).bind(3, retention_bytes);
  if (spec.columns) {
    s.bind_text(4, columns);
  } else {
    s.bind_null(4);
  }
  WS_TRY(s.run());
  // The chain keeps what its longest topic wants.
  return db_.exec(
      cat("UPDATE _ws_chains SET retention_bytes=", retention_bytes,
          ", retention_ms=(SELECT CASE WHEN"
          " min(retention_ms) = -1 THEN -1 ELSE max(retention_ms) END FROM _ws_topics WHERE chain=",
          topic.chain.value, ") WHERE chain=", topic.chain.value));
}

}  // namespace wayside
