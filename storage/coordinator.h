// The coordinator of local consumer groups: who may read a topic for a group, and who stands by.
// One member at a time is active per group and topic; when it goes, the one that waits longest
// takes over. It knows nothing of how members reach it: a member is a number, which the caller says
// is gone. Committed offsets are the log's business (CommitOffset); a member that is not active may
// not commit. Kafka's words; one member instead of an assignment of partitions.
// Thread: one owner.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace wayside {

using MemberId = std::uint64_t;

class GroupCoordinator {
 public:
  struct Member {
    MemberId id = 0;
    std::string client;  // who it says it is
    std::int64_t joined_ms = 0;
  };
  struct Membership {
    std::string group, topic;
    std::vector<Member> members;  // the first is active, the others wait, in this order
    std::int64_t generation = 0;  // +1 whenever another one becomes active
  };

  // True: the member is active at once. REQUIRES: it is in no group yet.
  [[nodiscard]] Result<bool> join(const std::string& group, const std::string& topic,
                                  Member member);
  // The member is gone. Returns who is active in its place, if that changed.
  std::optional<MemberId> leave(MemberId id);
  // Whether the member is the active one of this group and topic.
  [[nodiscard]] bool is_active(MemberId id, const std::string& group,
                               const std::string& topic) const;
  [[nodiscard]] bool has_members(const std::string& group) const;
  [[nodiscard]] bool is_read(std::string_view topic) const;  // by any group
  [[nodiscard]] std::vector<Membership> memberships() const;

 private:
  using Key = std::pair<std::string, std::string>;
  std::map<Key, Membership> memberships_;
  std::map<MemberId, Key> of_member_;
};

// A group's name: 1 to 249 bytes of printable UTF-8; `bridge.…` is reserved.
[[nodiscard]] Status check_group_name(const std::string& name);

}  // namespace wayside
