#include "storage/quarantine.h"

#include <iterator>
#include <utility>

#include "base/text.h"

namespace wayside {

std::string encode_note(QuarantineNote note) {
  std::vector<Header> headers{{"reason", std::move(note.reason)},
                              {"detail", std::move(note.detail)}};
  if (!note.bridge.empty()) headers.emplace_back("bridge", std::move(note.bridge));
  if (!note.group.empty()) headers.emplace_back("group", std::move(note.group));
  if (!note.topic.empty()) {
    headers.emplace_back("topic", std::move(note.topic));
    headers.emplace_back("partition", cat(note.partition));
    headers.emplace_back("offset", cat(note.offset));
  }
  if (!note.mqtt_topic.empty() || !note.client_id.empty()) {
    headers.emplace_back("mqtt.topic", std::move(note.mqtt_topic));
    headers.emplace_back("mqtt.client_id", std::move(note.client_id));
  }
  std::move(note.others.begin(), note.others.end(), std::back_inserter(headers));
  return encode_headers(headers);
}

QuarantineNote note_of(const Record& record) {
  QuarantineNote note;
  auto headers = decode_headers(record.headers);
  if (!headers) return note;
  const std::pair<std::string_view, std::string*> texts[] = {
      {"reason", &note.reason}, {"detail", &note.detail},
      {"bridge", &note.bridge}, {"group", &note.group},
      {"topic", &note.topic},   {"mqtt.topic", &note.mqtt_topic},
      {"mqtt.client_id", &note.client_id}};
  const std::pair<std::string_view, std::int64_t*> numbers[] = {{"partition", &note.partition},
                                                                {"offset", &note.offset}};
  for (Header& h : *headers) {  // the first of a name is ours
    bool ours = false;
    for (const auto& [name, to] : texts) {
      if (h.first == name && to->empty()) *to = h.second.value_or(""), ours = true;
    }
    for (const auto& [name, to] : numbers) {
      if (h.first == name && *to < 0) {
        *to = parse_int(h.second.value_or("")).value_or(-1), ours = true;
      }
    }
    if (!ours) note.others.push_back(std::move(h));
  }
  return note;
}

std::optional<TpId> partition_of(const Catalog& catalog, const QuarantineNote& note) {
  const Topic* topic = catalog.find(note.topic);
  if (topic == nullptr || note.partition < 0 || note.offset < 0 ||
      note.partition >= static_cast<std::int64_t>(topic->partitions.size())) {
    return std::nullopt;
  }
  return topic->partitions[static_cast<std::size_t>(note.partition)].tp;
}

Append set_aside(const Catalog& catalog, const StoredRecord& record, QuarantineNote note) {
  if (const Topic* topic = catalog.find(record.tp)) note.topic = topic->name;
  note.partition = catalog.partition_of(record.tp);
  note.offset = record.offset.value;
  Append append;
  append.tp = catalog.find(kQuarantineTopic)->partitions.front().tp;
  append.record.key = record.record.key;
  append.record.value = record.record.value;
  append.record.attributes = record.record.attributes & kCbor;
  append.record.headers = encode_note(std::move(note));
  return append;
}

}  // namespace wayside
