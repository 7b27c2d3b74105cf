// SPDX-License-Identifier: Apache-2.0
// Names of files in bulk: what lies in a folder, in which order, and where the labels of pictures are looked for.
#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <unordered_map>

#include "dataset/dataset.h"

namespace fastdet::dataset {
namespace {

TextsView view_of(const Texts& texts) { return {texts.letters.data(), texts.starts.data(), texts.size()}; }

// The suffix as `os.path.splitext` has it: points at the beginning begin none.
std::string_view suffix_of(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || name.find_first_not_of('.') >= dot) return {};
  return name.substr(dot);
}

enum class Kind { picture, other, neither };

Kind kind_of(std::string_view name, unsigned char type, const std::vector<std::string>& suffixes, std::string& buffer) {
  if (type == DT_LNK || type == DT_UNKNOWN) return Kind::other;
  buffer.assign(suffix_of(name));
  for (char& c : buffer) {
    if ((static_cast<unsigned char>(c) & 0x80U) != 0) return Kind::other;  // some of these letters have a small form in ASCII
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  if (std::find(suffixes.begin(), suffixes.end(), buffer) != suffixes.end()) return Kind::picture;
  return type == DT_DIR ? Kind::other : Kind::neither;
}

// Folder by folder: a separator comes before every letter.
bool comes_before(std::string_view a, std::string_view b) {
  const auto [one, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (other == b.end()) return false;
  if (one == a.end()) return true;
  const auto rank = [](char c) { return c == '/' ? 0 : static_cast<int>(static_cast<unsigned char>(c)); };
  return rank(*one) < rank(*other);
}

}  // namespace

Folder list_folder(const std::string& folder, std::string_view begin, const std::vector<std::string>& suffixes) {
  Folder found;
  DIR* const stream = opendir(folder.c_str());
  if (stream == nullptr) {
    found.error = errno;
    return found;
  }
  Texts names;
  std::string buffer;
  for (;;) {
    errno = 0;
    const dirent* const entry = readdir(stream);
    if (entry == nullptr) break;
    const std::string_view name(entry->d_name);
    if (name == "." || name == "..") continue;
    const Kind kind = kind_of(name, entry->d_type, suffixes, buffer);
    if (kind == Kind::picture) names.add(name);
    if (kind == Kind::other) found.others.add(name);
  }
  found.error = errno;
  closedir(stream);
  const Texts sorted = sorted_names(view_of(names));
  const TextsView view = view_of(sorted);
  const auto count = static_cast<std::size_t>(view.count);
  found.pictures.starts.reserve(count + 1);
  found.pictures.letters.reserve(sorted.letters.size() + begin.size() * count);
  for (Index i = 0; i < view.count; ++i) {
    found.pictures.letters.insert(found.pictures.letters.end(), begin.begin(), begin.end());
    found.pictures.add(view[i]);
  }
  return found;
}

Texts sorted_names(TextsView names) {
  std::vector<Index> order(static_cast<std::size_t>(names.count));
  std::iota(order.begin(), order.end(), Index{0});
  const auto before = [&](Index a, Index b) { return comes_before(names[a], names[b]); };
  if (!std::is_sorted(order.begin(), order.end(), before)) std::sort(order.begin(), order.end(), before);
  Texts sorted;
  sorted.starts.reserve(order.size() + 1);
  sorted.letters.reserve(static_cast<std::size_t>(names.starts[names.count]));
  for (const Index i : order) sorted.add(names[i]);
  return sorted;
}

FoldersOf folders_of(TextsView names) {
  FoldersOf found;
  found.number.reserve(static_cast<std::size_t>(names.count));
  std::unordered_map<std::string_view, std::int32_t> known;
  std::string_view last;
  for (Index i = 0; i < names.count; ++i) {
    const std::string_view folder = names[i].substr(0, names[i].rfind('/') + 1);
    if (i > 0 && folder == last) {
      found.number.push_back(found.number.back());
      continue;
    }
    last = folder;
    const auto [place, is_new] = known.emplace(folder, static_cast<std::int32_t>(known.size()));
    if (is_new) found.first.push_back(i);
    found.number.push_back(place->second);
  }
  return found;
}

LabelNames label_names(TextsView pictures, const std::int32_t* folder, TextsView label_folders) {
  LabelNames found;
  found.names.starts.reserve(static_cast<std::size_t>(pictures.count) + 1);
  std::string name;
  for (Index i = 0; i < pictures.count; ++i) {
    const std::string_view picture = pictures[i];
    const std::size_t at = picture.rfind('/') + 1, dot = picture.rfind('.');
    if (dot == std::string_view::npos || dot <= at || dot + 1 == picture.size()) {
      found.special.push_back(i);
      found.names.add({});
      continue;
    }
    name.assign(label_folders[folder[i]]).append(picture.substr(at, dot - at)).append(".txt");
    found.names.add(name);
  }
  return found;
}

}  // namespace fastdet::dataset
