#include "storage/recovery/sidecar.h"

#include <cstdio>
#include <functional>

#include "base/checksum.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

namespace wayside {
namespace {

constexpr std::int64_t kSidecarBytesMost = 256 << 20;
constexpr std::size_t kSlotStep = 4096;

// ,"name":[…] of what `each` appends for every element, which puts its own commas inside.
template <class Range, class Each>
void append_list(std::string& out, std::string_view name, const Range& range, Each each) {
  out += cat(",\"", name, "\":[");
  bool first = true;
  for (const auto& one : range) {
    if (!std::exchange(first, false)) out.push_back(',');
    each(one);
  }
  out.push_back(']');
}

std::string checksum_text(std::string_view json) {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", crc32c(0, json));
  return text;
}

}  // namespace

std::string sidecar_path(const std::string& database) {
  return database + ".sidecar";
}

std::string dump_sidecar(const Sidecar& s) {
  std::string out =
      cat("{\"format\":1,\"gateway_id\":\"", s.identity.gateway_id, "\",\"log_uuid\":\"",
          s.identity.log_uuid, "\",\"epoch\":", s.identity.epoch, ",\"serial\":", s.serial,
          ",\"written_ms\":", s.written_ms, ",\"next_seq\":", s.next_seq);
  if (s.place.inode != 0) out += ",\"place\":" + dump_place(s.place);
  append_list(out, "chains", s.chains, [&](const Sidecar::Chain& c) {
    out += cat("{\"chain\":", c.id.value, ",\"retention_ms\":", c.retention_ms,
               ",\"retention_bytes\":", c.retention_bytes, ",\"segment_rows\":", c.segment_rows,
               ",\"segment\":", c.segment, "}");
  });
  append_list(out, "topics", s.topics, [&](const Topic& t) {
    out += cat("{\"topic_id\":", t.id.value, ",\"uuid\":\"", t.uuid, "\",\"name\":\"", t.name,
               "\",\"chain\":", t.chain.value, ",\"retention_ms\":", t.retention_ms,
               ",\"retention_bytes\":", t.retention_bytes);
    if (t.columns) out += ",\"columns\":" + json_array(*t.columns);
    if (!t.learnt_columns.empty()) out += ",\"learnt\":" + json_array(t.learnt_columns);
    append_list(out, "partitions", t.partitions, [&](const Partition& p) {
      const auto m = s.marks.find(p.tp);
      const Sidecar::Marks marks = m == s.marks.end() ? Sidecar::Marks{} : m->second;
      out += cat("{\"tp\":", p.tp.value, ",\"log_start\":", marks.log_start,
                 ",\"next_offset\":", marks.next_offset, "}");
    });
    out.push_back('}');
  });
  append_list(out, "offsets", s.offsets, [&](const CommitOffset& o) {
    out += "{\"group\":";
    append_json_string(out, o.group);
    out += cat(",\"tp\":", o.tp.value, ",\"next\":", o.next.value, "}");
  });
  append_list(out, "facts", s.facts, [&](const auto& fact) {
    out += "{\"name\":";
    append_json_bytes(out, fact.first);
    out += ",\"value\":";
    append_json_bytes(out, fact.second);
    out.push_back('}');
  });
  append_list(out, "counters", s.counters, [&](const auto& counter) {
    out += "{\"name\":";
    append_json_bytes(out, counter.first);
    out += cat(",\"value\":", counter.second, "}");
  });
  append_list(out, "lost", s.lost, [&](const Sidecar::Lost& l) {
    out += cat("{\"tp\":", l.tp.value, ",\"from\":", l.from, ",\"to\":", l.to, ",\"kind\":\"",
               l.kind, "\",\"why\":");
    append_json_bytes(out, l.why);
    out.push_back('}');
  });
  out.push_back('}');
  return cat(checksum_text(out), " ", out, "\n");
}

Result<Sidecar> parse_sidecar(std::string_view line) {
  const auto torn = [] { return fail(ErrorCode::corrupt, "the sidecar is torn"); };
  if (line.size() < 12 || line.back() != '\n') return torn();
  std::string_view json = line.substr(9, line.size() - 10);
  while (json.ends_with(' ')) json.remove_suffix(1);
  if (line.substr(0, 8) != checksum_text(json)) return torn();
  WS_ASSIGN(const Json root, Json::parse(json));
  if (root.number("format") != 1) return fail(ErrorCode::too_new, "a sidecar of another format");
  const auto small = [](const Json& j, std::string_view name) {
    return static_cast<std::int32_t>(j.number(name));
  };
  Sidecar s;
  s.identity = {root.text("gateway_id"), root.text("log_uuid"), root.number("epoch")};
  s.serial = root.number("serial");
  s.written_ms = root.number("written_ms");
  s.next_seq = root.number("next_seq");
  if (const Json* place = root.find("place")) s.place = parse_place(place->dump());
  for (const Json& c : root.list("chains")) {
    s.chains.push_back({ChainId(small(c, "chain")), c.number("retention_ms"),
                        c.number("retention_bytes"), c.number("segment_rows"),
                        c.number("segment")});
  }
  for (const Json& t : root.list("topics")) {
    Topic topic;
    topic.id = TopicId(small(t, "topic_id"));
    topic.uuid = t.text("uuid");
    topic.name = t.text("name");
    topic.chain = ChainId(small(t, "chain"));
    topic.retention_ms = t.number("retention_ms");
    topic.retention_bytes = t.number("retention_bytes");
    const auto names = [&](std::string_view name) {
      std::vector<std::string> out;
      for (const Json& c : t.list(name)) {
        if (const auto* text = std::get_if<std::string>(&c.value)) out.push_back(*text);
      }
      return out;
    };
    if (t.find("columns") != nullptr) topic.columns = names("columns");
    topic.learnt_columns = names("learnt");
    for (const Json& p : t.list("partitions")) {
      const TpId tp(small(p, "tp"));
      topic.partitions.push_back({tp, static_cast<std::int32_t>(topic.partitions.size())});
      s.marks[tp] = {p.number("log_start"), p.number("next_offset")};
    }
    s.topics.push_back(std::move(topic));
  }
  for (const Json& o : root.list("offsets")) {
    s.offsets.push_back({o.text("group"), TpId(small(o, "tp")), Offset(o.number("next")), ""});
  }
  for (const Json& f : root.list("facts")) s.facts.emplace_back(f.text("name"), f.text("value"));
  for (const Json& c : root.list("counters")) {
    s.counters.emplace_back(c.text("name"), c.number("value"));
  }
  for (const Json& l : root.list("lost")) {
    s.lost.push_back(
        {TpId(small(l, "tp")), l.number("from"), l.number("to"), l.text("kind"), l.text("why")});
  }
  return s;
}

Result<Sidecar> read_sidecar(const std::string& database) {
  const std::string path = sidecar_path(database);
  if (!file_exists(path)) return fail(ErrorCode::not_found, "there is no sidecar");
  if (file_size(path) > kSidecarBytesMost) return fail(ErrorCode::corrupt, "it is too large");
  WS_ASSIGN(const std::string both, read_file(path));
  const std::string_view all = both;
  auto first = parse_sidecar(all.substr(0, all.size() / 2));
  auto second = parse_sidecar(all.substr(all.size() / 2));
  if (!first && !second) first = parse_sidecar(all);  // as it was before it had two halves
  return !second || (first && first->serial >= second->serial) ? first : second;
}

Status write_sidecar(const std::string& database, const Sidecar& s) {
  const std::string path = sidecar_path(database);
  std::string line = dump_sidecar(s);
  line.pop_back();
  const auto fill = [&](std::size_t slot) {
    line.append(slot - 1 - line.size(), ' ');
    line.push_back('\n');
  };
  const auto slot = static_cast<std::size_t>(file_size(path) / 2);
  if (slot % kSlotStep == 0 && line.size() < slot && slot < line.size() * 8 + kSlotStep) {
    std::string content = line;
    fill(slot);
    const auto at = static_cast<std::int64_t>(slot) * (s.serial % 2);
    if (overwrite_synced(path, at, line)) return {};
    line = std::move(content);
  }
  // With room to grow into.
  fill((line.size() * 3 / 2 / kSlotStep + 1) * kSlotStep);
  return write_file_synced(path, line + line);
}

}  // namespace wayside
