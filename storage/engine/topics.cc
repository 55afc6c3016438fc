// Topics: brought to what is wanted, and deleted.
#include <algorithm>

#include "base/limits.h"
#include "base/text.h"
#include "storage/engine/space.h"
#include "storage/engine/transaction.h"
#include "storage/recovery/recovery.h"

namespace wayside {

namespace {

bool differs(const Topic& topic, const TopicSpec& spec) {
  return static_cast<std::int32_t>(topic.partitions.size()) != spec.partitions ||
         topic.retention_ms != spec.retention_ms || topic.retention_bytes != spec.retention_bytes ||
         topic.columns != spec.columns || topic.priority != spec.priority ||
         topic.keep_for != spec.keep_for;
}

}  // namespace

Result<std::vector<std::string>> Engine::ensure_topics(std::span<const TopicSpec> specs) {
  std::vector<std::string> warnings;
  const auto change = [&]() -> Status {
    for (const TopicSpec& spec : specs) {
      WS_TRY(check_topic_name(spec.name));
      const Topic* topic = catalog_.find(spec.name);
      if (topic != nullptr && !differs(*topic, spec)) continue;
      WS_TRY(check_partitions(spec));
      if (topic == nullptr) {
        WS_TRY(create_topic(spec));
      } else {
        const Topic copy = *topic;
        WS_TRY(alter_topic(copy, spec, warnings));
      }
      WS_TRY(refresh());  // its chain may be new, and the next topic's
    }
    return {};
  };
  // Mostly there is nothing to change, and then nothing is written.
  const bool any = std::any_of(specs.begin(), specs.end(), [&](const TopicSpec& spec) {
    const Topic* topic = catalog_.find(spec.name);
    return topic == nullptr || differs(*topic, spec);
  });
  if (any) {
    Status status = transaction(change);
    if (!status) WS_TRY(as_it_was());
    WS_TRY(std::move(status));
    recovery_->keep_sidecar(true);
  }
  upkeep_.views_stale = upkeep_.topic_views_stale = true;
  return warnings;
}

// After a rollback, too. What cannot be read again is not told to the sidecar either.
Status Engine::as_it_was() {
  Status read = refresh();
  if (!read) recovery_->end_sidecar();
  return read;
}

// Whether the gateway can have so many topics and partitions.
Status Engine::check_partitions(const TopicSpec& spec) const {
  std::int64_t topics = 1, partitions = spec.partitions;
  for (const Topic& t : catalog_.topics()) {
    if (catalog_.find(spec.name) == &t) continue;
    ++topics;
    partitions += static_cast<std::int64_t>(t.partitions.size());
  }
  if (spec.partitions >= 1 && topics <= static_cast<std::int64_t>(limits::kTopicsMax) &&
      partitions <= limits::kPartitionsMax) {
    return {};
  }
  return fail(ErrorCode::refused, cat("topic ", spec.name, " with ", spec.partitions,
                                      " partitions: a gateway has up to ", limits::kTopicsMax,
                                      " topics and ", limits::kPartitionsMax,
                                      " partitions in all, a topic at least one; this would make ",
                                      topics, " and ", partitions));
}

Status Engine::create_topic(const TopicSpec& spec) {
  WS_ASSIGN(const ChainId chain, chain_for(spec));
  const std::string uuid = random_uuid();
  const std::string columns = spec.columns ? json_array(*spec.columns) : "";
  WS_ASSIGN(Statement s,
            db_.prepare("INSERT INTO _ws_topics(uuid, name, chain, retention_ms, retention_bytes,"
                        " columns, created_ms, priority, keep_for)"
                        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9) RETURNING topic_id"));
  s.bind_text(1, uuid).bind_text(2, spec.name).bind(3, chain.value).bind(4, spec.retention_ms);
  const std::string keep_for = json_array(spec.keep_for);
  s.bind(5, spec.retention_bytes).bind(7, append_ms_).bind(8, spec.priority);
  s.bind_text(9, keep_for);
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
  WS_ASSIGN(const auto first, read_fact(db_, "first_offset"));
  if (!first) return {};
  const std::string tps =
      cat(" FROM _ws_partitions WHERE topic_id=", id.value, " AND partition >= ", from);
  WS_TRY(db_.exec(cat("INSERT INTO _ws_lost SELECT tp, 0, ", *first,
                      ", 'skipped', 'a log whose topics could not be read was here', ", append_ms_,
                      ", 0", tps)));
  WS_TRY(
      db_.exec(cat("INSERT OR REPLACE INTO _ws_segment_starts SELECT chain, segment, tp, ", *first,
                   " FROM _ws_partitions JOIN _ws_topics USING (topic_id) JOIN"
                   " _ws_segments USING (chain) WHERE last_seq IS NULL AND topic_id=",
                   id.value, " AND partition >= ", from)));
  WS_TRY(db_.exec(
      cat("UPDATE _ws_partitions SET log_start=", *first, " WHERE tp IN (SELECT tp", tps, ")")));
  // A chain that is known already does not read its starts again.
  WS_ASSIGN(Statement made, db_.prepare("SELECT tp" + tps));
  for (;;) {
    WS_ASSIGN(const bool row, made.step());
    if (!row) return {};
    const auto tp = static_cast<std::size_t>(made.integer(0));
    if (positions_.next_offset.size() <= tp) positions_.next_offset.resize(tp + 1, 0);
    positions_.next_offset[tp] = parse_int(*first).value_or(0);
  }
}

// Topics of one retention by time (and one priority) share a chain, because what a commit costs is
// the number of places it writes to; a topic with a bound in bytes has its own, because the bound
// is kept by dropping the chain's segments.
Result<ChainId> Engine::chain_for(const TopicSpec& spec) {
  // What one keeps until it is sent, all of its chain would have to keep.
  const auto keeps_alike = [&](ChainId chain) {
    return std::all_of(catalog_.topics().begin(), catalog_.topics().end(), [&](const Topic& t) {
      return t.chain != chain || t.keep_for == spec.keep_for;
    });
  };
  if (spec.retention_bytes == kUnbounded) {
    for (const Chain& c : chains_) {
      if (c.retention_bytes == kUnbounded && c.retention_ms == spec.retention_ms &&
          c.priority == spec.priority && keeps_alike(c.id)) {
        return c.id;
      }
    }
  }
  WS_ASSIGN(Statement s,
            db_.prepare("INSERT INTO _ws_chains(retention_ms, retention_bytes,"
                        " segment_rows, priority) VALUES(?1,?2,?3,?4) RETURNING chain"));
  s.bind(1, spec.retention_ms).bind(2, spec.retention_bytes).bind(3, options_.segment_rows);
  s.bind(4, spec.priority);
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
                                     " columns=?4, priority=?5, keep_for=?6 WHERE topic_id=?1"));
  const std::string keep_for = json_array(spec.keep_for);
  s.bind(5, spec.priority).bind_text(6, keep_for);
  s.bind(1, topic.id.value).bind(2, spec.retention_ms).bind(3, retention_bytes);
  if (spec.columns) {
    s.bind_text(4, columns);
  } else {
    s.bind_null(4);
  }
  WS_TRY(s.run());
  WS_TRY(db_.exec(cat("UPDATE _ws_chains SET retention_bytes=", retention_bytes,
                      " WHERE chain=", topic.chain.value)));
  return fit_retention(topic.chain);
}

// The chain keeps what its longest topic wants.
Status Engine::fit_retention(ChainId chain) {
  return db_.exec(cat(
      "UPDATE _ws_chains SET retention_ms=(SELECT CASE WHEN"
      " min(retention_ms) = -1 THEN -1 ELSE max(retention_ms) END FROM _ws_topics WHERE chain=",
      chain.value, "), priority=(SELECT max(priority) FROM _ws_topics WHERE chain=", chain.value,
      ") WHERE chain=", chain.value));
}

// The rows of its partitions stay, at the end of their records: what was stored stays counted. Its
// records go at once when it had its chain alone; in shared segments nobody sees them any more, and
// they go with the segments.
Status Engine::delete_topic(std::string_view name) {
  const Topic* found = catalog_.find(name);
  if (found == nullptr) return tl::unexpected<Error>(catalog_.unknown_topic(name));
  const Topic topic = *found;
  const bool alone =
      std::none_of(catalog_.topics().begin(), catalog_.topics().end(),
                   [&](const Topic& t) { return t.chain == topic.chain && t.id != topic.id; });
  const auto change = [&]() -> Status {
    std::int64_t live = 0;
    for (const Partition& p : topic.partitions) {
      WS_ASSIGN(const std::int64_t start, db_.number(cat("SELECT log_start FROM _ws_partitions"
                                                         " WHERE tp=",
                                                         p.tp.value)));
      WS_ASSIGN(const std::int64_t missing,
                db_.number(cat("SELECT ifnull(sum(to_offset - max(from_offset, ", start,
                               ")), 0) FROM _ws_lost WHERE tp=", p.tp.value, " AND to_offset > ",
                               start)));
      live += next_offset(p.tp).value - start - missing;
      WS_TRY(db_.exec(cat("UPDATE _ws_partitions SET log_start=", next_offset(p.tp).value,
                          " WHERE tp=", p.tp.value)));
      WS_TRY(db_.exec(cat("DELETE FROM _ws_consumer_offsets WHERE tp=", p.tp.value)));
    }
    WS_TRY(db_.exec(cat("DELETE FROM _ws_topics WHERE topic_id=", topic.id.value)));
    WS_TRY(db_.exec("DROP VIEW IF EXISTS " + quoted_identifier(topic.name)));
    Count deleted{"deleted.records", live};
    if (live > 0) WS_TRY(apply(deleted));
    return alone ? drop_chain(topic.chain) : fit_retention(topic.chain);
  };
  Status status = transaction(change);
  upkeep_.learn_at.erase(topic.id);
  upkeep_.views_stale = true;
  WS_TRY(as_it_was());
  recovery_->keep_sidecar(true);
  return status;
}

// Within a transaction: all of a chain that no topic has any more.
Status Engine::drop_chain(ChainId id) {
  const auto chain =
      std::find_if(chains_.begin(), chains_.end(), [&](const Chain& c) { return c.id == id; });
  WS_TRY(db_.exec(
      cat("INSERT OR REPLACE INTO _ws_meta VALUES('next_seq', ", positions_.next_seq, ")")));
  WS_TRY(db_.exec("DROP VIEW IF EXISTS " + chain_view(id)));
  chain->insert = Statement();  // it would keep the table from being dropped
  for (const auto& closed : chain->closed) {
    WS_TRY(db_.exec("DROP TABLE " + segment_table(id, closed.segment)));
  }
  WS_TRY(db_.exec("DROP TABLE " + segment_table(id, chain->segment)));
  for (const char* table : {"_ws_segments", "_ws_segment_starts", "_ws_sealed", "_ws_chains"}) {
    WS_TRY(db_.exec(cat("DELETE FROM ", table, " WHERE chain=", id.value)));
  }
  return {};
}

Status Engine::set_limits(const EngineOptions& limits) {
  options_.offset_retention_ms = limits.offset_retention_ms;
  options_.budget_bytes = limits.budget_bytes;
  options_.keep_free_bytes = limits.keep_free_bytes;
  return space_->set_page_limit();
}

}  // namespace wayside
