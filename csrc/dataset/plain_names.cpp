// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <unordered_map>

#include "core/parallel.h"
#include "dataset/dataset.h"
#include "dataset/folder_handle.h"

namespace fastdet::dataset {
namespace {

constexpr Index kGrain = 4096;
constexpr std::size_t kMaxName = 4095;  // what is longer is no name, and its folders would be too deep for the stack

bool is_link(const std::string& path) {
  struct stat status{};
  return lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

bool is_plain(std::string_view name) {
  // A drive is a letter and a colon, and a letter may have four bytes.
  if (name.empty() || name.size() > kMaxName || name.substr(0, 5).find(':') != std::string_view::npos) return false;
  if (name.find('\\') != std::string_view::npos || name.find('\0') != std::string_view::npos) return false;
  for (std::size_t first = 0; first <= name.size();) {
    const std::size_t last = std::min(name.find('/', first), name.size());
    const std::string_view part = name.substr(first, last - first);
    if (part.empty() || part == "." || part == "..") return false;
    first = last + 1;
  }
  return true;
}

std::string_view parent(std::string_view name) {
  const std::size_t slash = name.rfind('/');
  return name.substr(0, slash == std::string_view::npos ? 0 : slash);
}

// Folders below a root, and whether there is a link among what leads to them.
class Folders {
 public:
  explicit Folders(const std::string& root) : root_(root) {}

  bool behind_link(std::string_view folder) {
    if (folder.empty()) return false;
    const auto known = found_.find(folder);
    if (known != found_.end()) return known->second;
    const bool linked = behind_link(parent(folder)) || is_link(root_ + std::string(folder));
    found_.emplace(folder, linked);
    return linked;
  }

 private:
  const std::string& root_;
  std::unordered_map<std::string_view, bool> found_;
};

}  // namespace

std::vector<std::uint8_t> not_plain(const std::string& folder, TextsView names, bool links) {
  std::vector<std::uint8_t> found(static_cast<std::size_t>(names.count));
  Folders folders(folder);
  std::string_view last;
  bool last_linked = false;
  for (Index i = 0; i < names.count; ++i) {
    std::uint8_t& mark = found[static_cast<std::size_t>(i)];
    mark = is_plain(names[i]) ? 0 : 1;
    if (mark != 0 || !links) continue;
    const std::string_view own = parent(names[i]);
    if (own != last) {
      last = own;
      last_linked = folders.behind_link(own);
    }
    mark = last_linked ? 1 : 0;
  }
  if (!links) return found;
  parallel_for(names.count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::string path;
    for (Index i = begin; i < end; ++i) {
      std::uint8_t& mark = found[static_cast<std::size_t>(i)];
      if (mark == 0) mark = is_link(path.assign(folder).append(names[i])) ? 1 : 0;
    }
  });
  return found;
}

std::vector<Index> file_states(const Files& files) {
  std::vector<Index> found(static_cast<std::size_t>(6 * files.names.count), -1);
  parallel_for(files.names.count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    FolderHandle folder(files.folder);
    const auto note = [](const struct stat& status, Index* out) {
      out[0] = static_cast<Index>(status.st_mode);
      out[1] = static_cast<Index>(status.st_size);
      out[2] = Index{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
    };
    for (Index i = begin; i < end; ++i) {
      struct stat status{};
      Index* out = &found[static_cast<std::size_t>(6 * i)];
      const auto [handle, name] = folder.find(files.names[i]);
      if (fstatat(handle, name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
      note(status, out);
      if (!S_ISLNK(status.st_mode) || fstatat(handle, name, &status, 0) == 0) note(status, out + 3);
    }
  });
  return found;
}

}  // namespace fastdet::dataset
