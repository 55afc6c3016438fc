#include "storage/coordinator.h"

#include <algorithm>

#include "base/limits.h"
#include "base/text.h"

namespace wayside {

Result<bool> GroupCoordinator::join(const std::string& group, const std::string& topic,
                                    Member member) {
  WS_TRY(check_group_name(group));
  const MemberId id = member.id;
  if (of_member_.contains(id)) {
    return fail(ErrorCode::invalid_argument, "this reader is in a group already");
  }
  const Key key{group, topic};
  Membership& m = memberships_[key];
  m.group = group;
  m.topic = topic;
  m.members.push_back(std::move(member));
  of_member_[id] = key;
  if (m.members.size() > 1) return false;
  ++m.generation;
  return true;
}

std::optional<MemberId> GroupCoordinator::leave(MemberId id) {
  const auto of = of_member_.find(id);
  if (of == of_member_.end()) return std::nullopt;
  const auto it = memberships_.find(of->second);
  of_member_.erase(of);
  auto& members = it->second.members;
  const bool was_active = members.front().id == id;
  std::erase_if(members, [&](const Member& m) { return m.id == id; });
  if (members.empty()) {
    memberships_.erase(it);
    return std::nullopt;
  }
  if (!was_active) return std::nullopt;
  ++it->second.generation;
  return members.front().id;
}

bool GroupCoordinator::is_active(MemberId id, const std::string& group,
                                 const std::string& topic) const {
  const auto it = memberships_.find({group, topic});
  return it != memberships_.end() && it->second.members.front().id == id;
}

bool GroupCoordinator::has_members(const std::string& group) const {
  return std::any_of(memberships_.begin(), memberships_.end(),
                     [&](const auto& m) { return m.first.first == group; });
}

bool GroupCoordinator::is_read(std::string_view topic) const {
  return std::any_of(memberships_.begin(), memberships_.end(),
                     [&](const auto& m) { return m.first.second == topic; });
}

std::vector<GroupCoordinator::Membership> GroupCoordinator::memberships() const {
  std::vector<Membership> out;
  for (const auto& [key, m] : memberships_) out.push_back(m);
  return out;
}

Status check_group_name(const std::string& name) {
  if (name.empty() || name.size() > limits::kTopicNameBytesMax || printable(name) != name) {
    return fail(ErrorCode::invalid_argument, cat("'", printable(name), "' is no group name"),
                cat("use 1 to ", limits::kTopicNameBytesMax, " printable characters"));
  }
  if (name.starts_with("bridge.")) {
    return fail(ErrorCode::invalid_argument, cat("the group '", name, "' is reserved"),
                "names beginning with 'bridge.' are the positions of bridges; choose another");
  }
  return {};
}

}  // namespace wayside
