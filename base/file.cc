#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/text.h"

namespace wayside {

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) ::close(fd_);
}

Error errno_error(std::string_view doing, int error_number) {
  const ErrorCode code = error_number == ENOSPC || error_number == EDQUOT ? ErrorCode::no_space
                         : error_number == ENOENT                         ? ErrorCode::not_found
                                                                          : ErrorCode::io;
  std::string hint;
  if (error_number == EACCES || error_number == EPERM) {
    hint = "give the service's user the right to it (chown, chmod)";
  } else if (error_number == ENOSPC) {
    hint = "free some space on this file system";
  } else if (error_number == EROFS) {
    hint = "the medium is read-only; copy the directory to a writable one";
  }
  return Error{code, cat(doing, ": ", std::strerror(error_number)), hint};
}

Result<std::string> read_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string all;
  for (;;) {
    const std::size_t size = all.size();
    all.resize(size + (1 << 16));
    const ssize_t n = fd.valid() ? ::read(fd.get(), all.data() + size, all.size() - size) : -1;
    if (n < 0) return tl::unexpected<Error>(errno_error(cat("reading ", path), errno));
    all.resize(size + static_cast<std::size_t>(n));
    if (n == 0) return all;
  }
}

Result<std::string> read_head(const std::string& path, std::size_t bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string head(bytes, '\0');
  const ssize_t n = fd.valid() ? ::pread(fd.get(), head.data(), bytes, 0) : -1;
  if (n < 0) {
    Error e = errno_error(cat("reading ", path), errno);
    if (errno == EIO) e.code = ErrorCode::corrupt;
    return tl::unexpected<Error>(std::move(e));
  }
  head.resize(static_cast<std::size_t>(n));
  return head;
}

bool file_exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

bool is_regular_file(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

std::uint64_t file_inode(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? static_cast<std::uint64_t>(st.st_ino) : 0;
}

std::int64_t file_size(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? static_cast<std::int64_t>(st.st_size) : 0;
}

std::optional<DiskSpace> disk_space(const std::string& path) {
  struct statvfs fs {};
  if (::statvfs(path.c_str(), &fs) != 0) return std::nullopt;
  const auto block = static_cast<std::int64_t>(fs.f_frsize);
  return DiskSpace{static_cast<std::int64_t>(fs.f_bavail) * block,
                   static_cast<std::int64_t>(fs.f_blocks) * block};
}

Status rewrite_in_place_and_sync(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return tl::unexpected<Error>(errno_error(cat("opening ", path), errno));
  std::vector<char> buffer(1 << 16);
  for (off_t at = 0;;) {
    const ssize_t n = ::pread(fd.get(), buffer.data(), buffer.size(), at);
    if (n < 0) return tl::unexpected<Error>(errno_error(cat("reading ", path), errno));
    if (n == 0) break;
    if (::pwrite(fd.get(), buffer.data(), static_cast<std::size_t>(n), at) != n) {
      return tl::unexpected<Error>(errno_error(cat("writing ", path), errno));
    }
    at += n;
  }
  if (::fsync(fd.get()) != 0) {
    return tl::unexpected<Error>(errno_error(cat("syncing ", path), errno));
  }
  return {};
}

Status overwrite_synced(const std::string& path, std::int64_t at, std::string_view content) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return tl::unexpected<Error>(errno_error(cat("opening ", path), errno));
  while (!content.empty()) {
    const ssize_t n = ::pwrite(fd.get(), content.data(), content.size(), static_cast<off_t>(at));
    if (n < 0) return tl::unexpected<Error>(errno_error(cat("writing ", path), errno));
    content.remove_prefix(static_cast<std::size_t>(n));
    at += n;
  }
  if (::fdatasync(fd.get()) == 0) return {};
  return tl::unexpected<Error>(errno_error(cat("syncing ", path), errno));
}

Status sync_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.valid() && ::fsync(fd.get()) == 0) return {};
  return tl::unexpected<Error>(errno_error(cat("syncing ", path), errno));
}

Status remove_file(const std::string& path) {
  if (::unlink(path.c_str()) == 0) return {};
  return tl::unexpected<Error>(errno_error(cat("deleting ", path), errno));
}

Status rename_file(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return tl::unexpected<Error>(errno_error(cat("renaming ", from, " to ", to), errno));
  }
  const std::size_t slash = to.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : to.substr(0, slash + 1);
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::fsync(fd.get()) != 0) {
    return tl::unexpected<Error>(errno_error(cat("syncing ", directory), errno));
  }
  return {};
}

Status write_file_synced(const std::string& path, std::string_view content) {
  const std::string fresh = path + ".new";
  {
    const UniqueFd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
    if (!fd.valid()) return tl::unexpected<Error>(errno_error(cat("opening ", fresh), errno));
    while (!content.empty()) {
      const ssize_t n = ::write(fd.get(), content.data(), content.size());
      if (n < 0) return tl::unexpected<Error>(errno_error(cat("writing ", fresh), errno));
      content.remove_prefix(static_cast<std::size_t>(n));
    }
    if (::fsync(fd.get()) != 0) {
      return tl::unexpected<Error>(errno_error(cat("syncing ", fresh), errno));
    }
  }
  return rename_file(fresh, path);
}

Status write_ballast(const std::string& path, std::int64_t bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640));
  if (!fd.valid()) return tl::unexpected<Error>(errno_error(cat("opening ", path), errno));
  if (const int e = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes)); e != 0) {
    ::unlink(path.c_str());
    return tl::unexpected<Error>(errno_error(cat("allocating ", path), e));
  }
  return {};
}

bool is_locked(const std::string& path) {
  struct stat st {};
  struct statfs fs {};
  if (::stat(path.c_str(), &st) != 0 || ::statfs(path.c_str(), &fs) != 0) return false;
  // "1: FLOCK  ADVISORY  WRITE 123 fe:00:4711 0 EOF". Of btrfs and overlays stat(2) tells another
  // device.
  const auto type = static_cast<std::uint32_t>(fs.f_type);
  const bool with_device = type != 0x9123683E && type != 0x794C7630;
  std::array<char, 64> file{};
  if (with_device) {
    std::snprintf(file.data(), file.size(), " %02x:%02x:%llu ", ::major(st.st_dev),
                  ::minor(st.st_dev), static_cast<unsigned long long>(st.st_ino));
  } else {
    std::snprintf(file.data(), file.size(), ":%llu ", static_cast<unsigned long long>(st.st_ino));
  }
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    if (line.find("FLOCK") == std::string::npos) continue;
    if (line.find(file.data()) != std::string::npos) return true;
  }
  return false;
}

Result<UniqueFd> lock_file(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640));
  if (!fd.valid()) return tl::unexpected<Error>(errno_error(cat("opening ", path), errno));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return tl::unexpected<Error>(errno_error(cat("locking ", path), errno));
    }
    return fail(
        ErrorCode::busy, cat("another wayside has ", path, " locked"),
        "only one gateway may use a data_dir; stop the other one, or give this one its own");
  }
  return fd;
}

}  // namespace wayside
