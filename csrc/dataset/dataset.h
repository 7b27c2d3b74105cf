// SPDX-License-Identifier: Apache-2.0
// Fast readers of data sets into columns. They take what is clean and nothing else: whatever they refuse is read once more by
// the readers in Python, which say what is wrong with it. What they take, they read exactly as those do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fastdet::dataset {

using Index = std::int64_t;

constexpr Index kMaxSide = 65'535;
constexpr double kMaxCoordinate = 1e6;  // of a polygon's point, in pixels to either side

// Texts one behind the other: text i is [starts[i], starts[i + 1]) of `letters`.
struct Texts {
  std::vector<char> letters;
  std::vector<Index> starts{0};

  Index size() const { return static_cast<Index>(starts.size()) - 1; }
  void add(std::string_view text) {
    letters.insert(letters.end(), text.begin(), text.end());
    starts.push_back(static_cast<Index>(letters.size()));
  }
};

// The same, borrowed: `starts` has count + 1 numbers that rise from 0.
struct TextsView {
  const char* letters = nullptr;
  const Index* starts = nullptr;
  Index count = 0;

  std::string_view operator[](Index i) const {
    return {letters + starts[i], static_cast<std::size_t>(starts[i + 1] - starts[i])};
  }
};

// A COCO file whose every entry is right.
struct Coco {
  Texts names;  // of picture files, as written
  std::vector<std::int32_t> height, width;
  std::vector<Index> picture_id;
  std::vector<Index> picture;  // of annotations: row of the picture
  std::vector<std::int32_t> label;
  std::vector<double> box;  // [n, 4]: x, y, width, height in pixels, as published
  std::vector<double> area;
  std::vector<Index> annotation_id;
  std::vector<std::uint8_t> crowd;
  std::vector<float> point;                        // [P, 2]: x, y in pixels; this and the next two only where there are polygons
  std::vector<Index> ring_starts, polygon_starts;  // [rings + 1] into point; [n + 1] into rings
  std::vector<Index> category_ids;                 // rising: by label
  Texts category_names;
  Index suspicious = 0;  // boxes without area or reaching out of their picture, polygons that were left out
};

// Reads the file, which must not be cut short meanwhile. Nothing, where it is not clean. Without `polygons` segmentations are
// passed over.
std::optional<Coco> read_coco(const std::string& path, bool polygons);

// Whether a picture of this size cannot hold the box whole, by the rule of `box_problem` in fastdet.data.dataset.
bool is_suspicious(const double* box, double height, double width);

// Per name 1 where `folder` + name may not be what it leads to: names with ".", "..", "//", "\" or a drive, and (if `links`)
// those that are links or lie behind one. `folder` ends with "/" and holds no links.
std::vector<std::uint8_t> not_plain(const std::string& folder, TextsView names, bool links);

struct LabelRules {
  Index classes = 0;          // 0: there are no labels
  Index keypoint_values = 0;  // numbers behind a box that are left out
  bool polygons = false;      // whether they are kept, beside their boxes
};

// Pictures and label files that are clean, in their order; `unclean` marks the others, which have neither size nor boxes.
struct Yolo {
  std::vector<std::int32_t> height, width;
  std::vector<Index> counts;  // boxes of each picture
  std::vector<std::uint8_t> unclean;
  std::vector<std::int32_t> label;
  std::vector<double> box;     // [n, 4]: x, y, width, height in pixels
  std::vector<Index> corners;  // of each box: how many points its polygon has; this and the next only where they are kept
  std::vector<float> point;    // [P, 2]: x, y in pixels
};

// Names of files below a folder, which is empty or ends with "/".
struct Files {
  std::string folder;
  TextsView names;
};

// Reads the header of each picture and its label file (none: the picture is background). Those marked in `left` are not looked
// at. Label files that are links are unclean.
Yolo read_yolo(const Files& pictures, const Files& labels, const std::uint8_t* left, const LabelRules& rules);

// [count, 6] of each file: kind, size and time in nanoseconds of itself, and of what it leads to; -1 where there is none.
std::vector<Index> file_states(const Files& files);

// What lies in a folder.
struct Folder {
  Texts pictures;  // sorted by name
  Texts others;    // folders, links, and what only Python can tell from its name; as the system lists them
  int error = 0;   // errno, where it cannot be listed
};

// Lists a folder; `begin` is put before the name of each picture, which has one of the `suffixes` (small letters).
Folder list_folder(const std::string& folder, std::string_view begin, const std::vector<std::string>& suffixes);

// In the order of their bytes, folder by folder.
Texts sorted_names(TextsView names);

struct FoldersOf {
  std::vector<std::int32_t> number;  // of the folder of each name
  std::vector<Index> first;          // of each folder the first name in it
};
FoldersOf folders_of(TextsView names);

struct LabelNames {
  Texts names;
  std::vector<Index> special;  // of pictures whose names have no plain suffix, and no label name here
};

// The folder that belongs to the picture's, and its name with the suffix .txt.
LabelNames label_names(TextsView pictures, const std::int32_t* folder, TextsView label_folders);

}  // namespace fastdet::dataset
