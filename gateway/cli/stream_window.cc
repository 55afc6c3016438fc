#include "gateway/cli/stream_window.h"

#include "base/text.h"

namespace wayside {

void StreamWindow::give(std::int64_t batch, std::int32_t partition, const StoredRecord& record,
                        std::size_t bytes) {
  Given given;
  given.record.seq = record.seq;
  given.record.tp = record.tp;
  given.record.offset = record.offset;
  given.batch = last_batch_ = batch;
  given.bytes = bytes;
  Queue& queue = queues_[partition];
  queue.last_offset = record.offset.value;
  queue.given.push_back(std::move(given));
  ++records_;
  bytes_ += bytes;
}

Error StreamWindow::not_given(std::int32_t partition, std::int64_t offset) {
  return {ErrorCode::invalid_argument, cat("record ", partition, ":", offset, " was not given"),
          "after 'revoked' what was given before comes again"};
}

Status StreamWindow::ack_batch(std::int64_t batch) {
  if (batch < 1 || batch > last_batch_) {
    return wayside::fail(ErrorCode::invalid_argument, cat("batch ", batch, " was not given"));
  }
  for (auto& [partition, queue] : queues_) {
    for (Given& g : queue.given) {
      if (g.batch <= batch) g.acknowledged = true;
    }
  }
  return {};
}

Status StreamWindow::ack(std::int32_t partition, std::int64_t offset) {
  const auto it = queues_.find(partition);
  if (it == queues_.end() || offset < 0 || offset > it->second.last_offset) {
    return tl::unexpected<Error>(not_given(partition, offset));
  }
  for (Given& g : it->second.given) {
    if (g.record.offset.value <= offset) g.acknowledged = true;
  }
  return {};
}

Status StreamWindow::fail(std::int32_t partition, std::int64_t offset, const std::string& reason) {
  const auto it = queues_.find(partition);
  if (it == queues_.end() || offset < 0 || offset > it->second.last_offset) {
    return tl::unexpected<Error>(not_given(partition, offset));
  }
  for (Given& g : it->second.given) {
    if (g.record.offset.value != offset || (g.acknowledged && !g.refused)) continue;
    g.refused = reason;
    return {};
  }
  return wayside::fail(ErrorCode::invalid_argument,
                       cat("record ", partition, ":", offset, " is done with already"));
}

void StreamWindow::clear() {
  queues_.clear();
  records_ = bytes_ = 0;
}

void StreamWindow::pop(Queue& queue) {
  --records_;
  bytes_ -= queue.given.front().bytes;
  queue.given.pop_front();
}

std::map<std::int32_t, std::int64_t> StreamWindow::take_committable() {
  std::map<std::int32_t, std::int64_t> next;
  for (auto& [partition, queue] : queues_) {
    while (!queue.given.empty()) {
      const Given& g = queue.given.front();
      if (!g.acknowledged || g.refused) break;
      next[partition] = g.record.offset.value + 1;
      pop(queue);
    }
  }
  return next;
}

std::optional<StreamWindow::Refusal> StreamWindow::take_refusal() {
  for (auto& [partition, queue] : queues_) {
    if (queue.given.empty() || !queue.given.front().refused) continue;
    const Given& g = queue.given.front();
    Refusal refusal{g.record, *g.refused};
    pop(queue);
    return refusal;
  }
  return std::nullopt;
}

}  // namespace wayside
