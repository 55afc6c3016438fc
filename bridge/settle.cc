// What becomes of a batch: the part of a bridge that draws conclusions from answers.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "base/text.h"
#include "bridge/bridge.h"
#include "storage/quarantine.h"

namespace wayside {
namespace {

// What may be about the content, but mostly is not: so much of it in a row, and it is asked whether
// other content is taken. Five answers (403, 500), twenty broken connections.
constexpr int kSuspicionEnough = 20, kOfAnAnswer = 4, kOfABreak = 1;
constexpr std::int64_t kGrowAfterMost = 64;

std::string place_of(const Catalog& catalog, const StoredRecord& r) {
  const Topic* topic = catalog.find(r.tp);
  const std::string name = topic == nullptr ? "a deleted topic" : topic->name;
  return cat(name, " ", catalog.partition_of(r.tp), ":", r.offset.value);
}

bool is_refusal(const SinkReply& reply) {
  return reply.verdict == Verdict::refused || reply.verdict == Verdict::too_large;
}

int suspicion_of(const SinkReply& reply) {
  if (reply.maybe_content) return kOfAnAnswer;
  return reply.status == SinkReply::kBrokenOff ? kOfABreak : 0;
}

}  // namespace

Status Bridge::send_until_settled(LogReader& reader, SealedBatch sealed, std::stop_token stop) {
  std::optional<SealedBatch> now = std::move(sealed);
  suspicion_ = cut_for_ = 0;
  while (now && !stop.stop_requested() && !has_edits()) {
    wait_while_paused(stop);
    if (stop.stop_requested() || has_edits()) break;
    const SinkReply reply = send(*now, stop);
    if (reply.verdict == Verdict::stopped) break;
    const int suspicion = suspicion_of(reply);
    // Once it is proven that content leads to such an answer, it is a refusal like others; but each
    // proof is of one record, because the upstream as a whole may come to say so, too.
    const bool known = content_status_ != 0 && reply.status == content_status_;
    const bool refused = is_refusal(reply) || known, one = now->range.rows == 1;
    std::optional<SealedBatch> next;
    if (reply.verdict == Verdict::delivered) {
      // A part is taken of what was answered so as a whole.
      if (cut_for_ != 0) content_status_ = std::exchange(cut_for_, 0);
      WS_TRY(settle(reader, *now, nullptr, next, stop));
      now = std::move(next);
      continue;
    }
    if (!refused) content_status_ = 0;
    if (refused || suspicion > 0) blame_.refused(now->range.chain, now->range.last);
    const bool was_enough = suspicion_ >= kSuspicionEnough;
    suspicion_ = !refused && suspicion > 0 ? suspicion_ + suspicion : 0;
    const bool enough = suspicion_ >= kSuspicionEnough;
    if (refused && !one) {
      WS_TRY(halve(*now));
      continue;
    }
    if (!refused && !enough) {
      pause(reply, stop);
      continue;
    }
    // What was taken before it answered like this says nothing.
    if (enough && !was_enough) blame_.forget_proof();
    bool set_aside = blame_.proven(one ? now->records.front().source : 0);
    if (!set_aside && one && now->kind == BatchKind::again) {
      WS_ASSIGN(const auto places, held(reader, now->records));
      set_aside = !places.empty();  // it is refused once more, and stays where it is
    }
    if (!set_aside) {
      WS_ASSIGN(const Probed probed, probe(reader, *now, stop));
      if (probed == Probed::interrupted) return {};
      if (probed == Probed::taken) {  // and now it is known whose fault it is
        if (!is_refusal(reply)) content_status_ = reply.status;
        continue;
      }
      content_status_ = 0;
      if (probed == Probed::nobody && !one) {
        WS_TRY(halve(*now));
        if (enough) suspicion_ = kSuspicionEnough, cut_for_ = reply.status;
      } else if (!refused) {
        pause(reply, stop);
      } else {
        pause({Verdict::misconfigured,
               others_refused_ > 0
                   ? cat(reply.what, "; so it does with ", others_refused_, " other readings")
                   : cat(reply.what, " (", place_of(*log_.catalog(), now->records.front()),
                         "); there is no other reading to tell whether it is its fault"),
               reply.retry_after_ms},
              stop);
      }
      continue;
    }
    if (!one) {
      WS_TRY(halve(*now));
      continue;
    }
    WS_TRY(settle(reader, *now, &reply, next, stop));
    if (!is_refusal(reply)) blame_.forget_proof();
    now = std::move(next);
  }
  return {};
}

// It was not taken as a whole, so it may be cut: halves find the record that is to blame.
Status Bridge::halve(SealedBatch& sealed) {
  const auto half = static_cast<std::size_t>(sealed.range.rows / 2);
  records_most_ = static_cast<std::int64_t>(half);
  taken_ = 0;
  grow_after_ = std::min(grow_after_ * 2, kGrowAfterMost);
  suspicion_ = 0;
  sealed.records.resize(half);
  sealed = seal(sealed.kind, sealed.range.chain, sealed.range.tps, std::move(sealed.records));
  return commit({Seal{seal_name(options_.name, sealed.kind), sealed.range}});
}

// Batches grow again; where they were cut each time, more slowly.
void Bridge::grow() {
  if (++taken_ < grow_after_) return;
  taken_ = 0;
  records_most_ = std::min(options_.batch_records, records_most_ * 2);
  if (records_most_ == options_.batch_records) grow_after_ = 1;
}

// Tries other records one by one, each sealed like a batch, until one is taken.
Result<Bridge::Probed> Bridge::probe(LogReader& reader, const SealedBatch& suspect,
                                     std::stop_token stop) {
  prober_.suspect_batch(suspect.records);
  const int most = others_refused_ < 0 ? limits::kProbesAtFirst : limits::kProbesPerTry;
  others_refused_ = std::max(others_refused_, 0);
  // One of the same key only behind a single suspect.
  const bool same_key = suspect.range.rows == 1 && suspect.kind == BatchKind::next;
  int tried = 0;
  for (; tried < most; ++tried) {
    if (stop.stop_requested() || has_edits()) return Probed::interrupted;
    WS_ASSIGN(auto record, prober_.next(reader, unsent_, same_key, stop));
    if (!record) break;
    const ChainId chain = log_.catalog()->find(record->tp)->chain;
    const TpId tp = record->tp;
    SealedBatch one = seal(BatchKind::probe, chain, {tp}, {std::move(*record)});
    WS_TRY(commit({Seal{seal_name(options_.name, BatchKind::probe), one.range}}));
    WS_ASSIGN(const Probed probed, send_probe(one, false, stop));
    if (probed != Probed::refused) return probed;
  }
  return tried > 0 ? Probed::refused : Probed::nobody;
}

// What was taken is noted in the same transaction in which its seal goes, so it is not sent again.
// `undecided`: it may have been taken without our knowing, so not any answer says that it was not.
Result<Bridge::Probed> Bridge::send_probe(const SealedBatch& probe, bool undecided,
                                          std::stop_token stop) {
  const StoredRecord& record = probe.records.front();
  std::vector<Op> ops{Unseal{seal_name(options_.name, BatchKind::probe)}};
  for (int suspicion = 0;;) {
    wait_while_paused(stop);
    if (stop.stop_requested() || has_edits()) return Probed::interrupted;
    const SinkReply reply = send(probe, stop);
    if (reply.verdict == Verdict::stopped) return Probed::interrupted;
    if (reply.verdict == Verdict::delivered) break;
    const bool answered = reply.verdict == Verdict::misconfigured || reply.maybe_content;
    suspicion += answered ? kOfAnAnswer : suspicion_of(reply);
    if (!is_refusal(reply) && !(answered && !undecided) && suspicion <= kSuspicionEnough) {
      undecided = true;
      pause(reply, stop);
      continue;
    }
    prober_.suspect({record});
    ++others_refused_;
    WS_TRY(commit(std::move(ops)));
    return Probed::refused;
  }
  const Lane* lane = unsent_.lane_of(probe.range.chain);
  WS_CHECK(lane != nullptr);
  unsent_.settle(*lane, probe.records, ops);
  prober_.taken(record);
  WS_TRY(commit(std::move(ops)));
  return Probed::taken;
}

// One transaction: the positions behind the batch, and the seal of the next one. A record that
// is set aside goes to quarantine in the same transaction.
Status Bridge::settle(LogReader& reader, const SealedBatch& sealed, const SinkReply* refusal,
                      std::optional<SealedBatch>& next, std::stop_token stop) {
  suspicion_ = 0;
  if (refusal == nullptr) grow();
  if (sealed.kind == BatchKind::again) return settle_again(reader, sealed, refusal);
  Lane* lane = unsent_.lane_of(sealed.range.chain);
  WS_CHECK(lane != nullptr);  // else nothing of the batch was unsent
  std::vector<Op> ops;
  unsent_.settle_next(*lane, sealed.records, sealed.range.last, lane->tps == sealed.range.tps, ops);
  if (refusal == nullptr) {
    prober_.reset();
  } else {
    WS_TRY(quarantine(reader, sealed.records.front(), refusal->what, ops));
    blame_.set_aside(sealed.records.front().source);
    grow_after_ = 1;
    // Beyond what was refused, the size of batches is no suspect.
    if (!blame_.expects_more(lane->chain, lane->next)) records_most_ = options_.batch_records;
  }
  WS_ASSIGN(next, next_batch(reader, stop));
  if (next) {
    ops.emplace_back(Seal{options_.name, next->range});
  } else {
    ops.emplace_back(Unseal{options_.name});
  }
  return commit(std::move(ops));
}

Status Bridge::quarantine(LogReader& reader, const StoredRecord& r, const std::string& what,
                          std::vector<Op>& ops) {
  const auto catalog = log_.catalog();
  const Topic* topic = catalog->find(r.tp);
  if (topic == nullptr) return {};  // deleted meanwhile, and its records with it
  const Topic* held = catalog->find(kQuarantineTopic);
  WS_ASSIGN(const auto source, reader.source(r.source));
  if (topic != held) {  // what is there already stays there
    QuarantineNote note;
    note.reason = kRefusedUpstream;
    note.detail = what;
    note.bridge = options_.name;
    if (source) note.mqtt_topic = source->mqtt_topic, note.client_id = source->client_id;
    ops.emplace_back(set_aside(*catalog, r, std::move(note)));
  }
  ops.emplace_back(Count{"quarantined.refused_upstream", 1});
  logger_.repeated(
      LogLevel::warning, cat("bridge.", options_.name, ".refused"),
      cat("bridge ", options_.name, ": the upstream refuses ", place_of(*catalog, r),
          source ? cat(" of client ", printable(source->client_id)) : std::string(),
          ", and takes others; it goes to quarantine: ", what));
  return {};
}

// The first piece of what is sent once more. What is not there any more is told, and left.
Result<std::optional<SealedBatch>> Bridge::next_again(LogReader& reader) {
  while (!again_.empty()) {
    Resend& first = again_.front();
    const Topic* topic = log_.catalog()->find(first.tp);
    std::optional<Seq> seq;
    if (topic != nullptr) {
      WS_ASSIGN(seq, reader.seq_of(topic->chain, first.tp, first.from));
    }
    LogReader::Page page;
    if (seq) {
      WS_ASSIGN(page, reader.read(topic->chain, *seq, {{first.tp}},
                                  {static_cast<std::size_t>(records_most_),
                                   static_cast<std::size_t>(options_.batch_bytes)}));
      std::erase_if(page.records, [&](const StoredRecord& r) { return r.offset >= first.to; });
    }
    if (!page.records.empty()) {
      return std::optional(
          seal(BatchKind::again, topic->chain, {first.tp}, std::move(page.records)));
    }
    logger_.warning(cat("bridge ", options_.name, ": records from ", first.from.value,
                        " to before ", first.to.value,
                        " that were to be sent again are not there any more"));
    first.done = true;
    WS_TRY(commit({first}));
    again_.erase(again_.begin());
  }
  return std::optional<SealedBatch>{};
}

Status Bridge::settle_again(LogReader& reader, const SealedBatch& sealed,
                            const SinkReply* refusal) {
  const StoredRecord& first = sealed.records.front();
  std::vector<Op> ops{Unseal{seal_name(options_.name, BatchKind::again)},
                      Resend{options_.name, first.tp, first.offset,
                             Offset(sealed.records.back().offset.value + 1), true}};
  WS_ASSIGN(const auto places, held(reader, sealed.records));
  if (refusal != nullptr) {
    if (places.empty()) {
      WS_TRY(quarantine(reader, first, refusal->what, ops));
    } else {
      logger_.warning(cat("bridge ", options_.name, ": the upstream refuses ",
                          place_of(*log_.catalog(), first), " once more; it stays in quarantine: ",
                          refusal->what));
    }
    if (blame_.proven(first.source)) blame_.set_aside(first.source);
  } else {
    ops.emplace_back(Count{cat("resent.", options_.name), sealed.range.rows});
    for (const Offset offset : places) {
      ops.emplace_back(Count{"quarantine.retried", 1});
      ops.emplace_back(SettleQuarantined{offset, "sent"});
    }
  }
  WS_TRY(commit(std::move(ops)));
  WS_ASSIGN(again_, reader.resends(options_.name));
  return {};
}

Result<std::vector<Offset>> Bridge::held(LogReader& reader,
                                         const std::vector<StoredRecord>& records) {
  if (!held_) WS_TRY(find_held(reader));
  std::vector<Offset> out;
  for (const StoredRecord& r : records) {
    const auto [begin, end] = held_->equal_range({r.tp, r.offset});
    for (auto it = begin; it != end; ++it) out.push_back(it->second);
  }
  return out;
}

Status Bridge::find_held(LogReader& reader) {
  held_.emplace();
  const auto catalog = log_.catalog();
  const Topic* quarantine = catalog->find(kQuarantineTopic);
  const TpId tp = quarantine->partitions.front().tp;
  WS_ASSIGN(const auto settled, reader.settled());
  WS_ASSIGN(const auto marks, reader.marks(*quarantine));
  WS_ASSIGN(auto from, reader.seq_of(quarantine->chain, tp, marks.front().log_start));
  while (from) {
    WS_ASSIGN(const auto page, reader.read(quarantine->chain, *from, {{tp}}, {}));
    for (const StoredRecord& r : page.records) {
      if (settled.contains(r.offset.value)) continue;
      const QuarantineNote note = note_of(r.record);
      if (note.reason != kRefusedUpstream || note.bridge != options_.name) continue;
      const auto of = partition_of(*catalog, note);
      const bool asked = of && std::any_of(again_.begin(), again_.end(), [&](const Resend& a) {
        return a.tp == *of && a.from.value <= note.offset && note.offset < a.to.value;
      });
      if (asked) held_->emplace(std::pair(*of, Offset(note.offset)), r.offset);
    }
    from = page.at_end ? std::nullopt : std::optional(page.next);
  }
  return {};
}

}  // namespace wayside
