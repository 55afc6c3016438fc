#include "storage/place.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cstdlib>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

namespace wayside {
namespace {

// statfs(2), f_type. On others numbers of inodes are made up anew at a mount, or nothing is born.
bool keeps_births(std::uint64_t type) {
  return type == 0xEF53 || type == 0x58465342 || type == 0x9123683E || type == 0xF2F52010;
}

std::int64_t ns_of(const struct statx_timestamp& t) {
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

Place place_of(const std::string& path, const std::string& board) {
  Place place;
  place.board = board;
  struct statfs fs {};
  struct statx st {};
  if (::statfs(path.c_str(), &fs) != 0 || !keeps_births(static_cast<std::uint32_t>(fs.f_type)) ||
      ::statx(AT_FDCWD, path.c_str(), 0, STATX_INO | STATX_BTIME | STATX_CTIME, &st) != 0 ||
      (st.stx_mask & STATX_BTIME) == 0) {
    return place;
  }
  place.inode = st.stx_ino;
  place.born_ns = ns_of(st.stx_btime);
  place.changed_ns = ns_of(st.stx_ctime);
  return place;
}

std::string dump_place(const Place& p) {
  std::string out =
      cat("{\"inode\":", static_cast<std::int64_t>(p.inode), ",\"born_ns\":", p.born_ns,
          ",\"changed_ns\":", p.changed_ns, ",\"board\":");
  append_json_string(out, p.board);
  return out + "}";
}

Place parse_place(std::string_view json) {
  Place p;
  const auto root = Json::parse(json);
  if (!root) return p;
  p.inode = static_cast<std::uint64_t>(root->number("inode"));
  p.born_ns = root->number("born_ns");
  p.changed_ns = root->number("changed_ns");
  p.board = root->text("board");
  return p;
}

std::string why_copied(const Place& noted, const Place& here) {
  if (!noted.board.empty() && !here.board.empty() && noted.board != here.board) {
    return cat("it was last written on the board ", noted.board, ", and this is ", here.board);
  }
  if (noted.inode == 0 || here.inode == 0) return {};
  if (noted.inode != here.inode || noted.born_ns != here.born_ns) {
    return "its file is not the one that was written here: it was copied, restored or moved";
  }
  if (noted.changed_ns != 0 && noted.changed_ns != here.changed_ns) {
    return "its file was changed or overwritten while the gateway was stopped";
  }
  return {};
}

// As text, which is the same when it is read back; of zeros or ones alone (a memory that nobody has
// programmed) it says nothing.
std::string board_serial() {
  if (const char* said = std::getenv("WAYSIDE_BOARD"); said != nullptr) return printable(said);
  // The same as /proc/device-tree, which the service does not see.
  auto serial = read_head("/sys/firmware/devicetree/base/serial-number", 64);
  if (!serial) return {};
  serial->erase(serial->find_last_not_of(std::string_view("\0\n ", 3)) + 1);
  if (serial->find_first_not_of('\xff') == std::string::npos) return {};
  return printable(*serial);
}

}  // namespace wayside
