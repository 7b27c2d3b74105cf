// SPDX-License-Identifier: Apache-2.0
// Readers of data sets; fastdet.data calls them first and its own where they give None.
#include "dataset/dataset.h"

#include <pybind11/stl.h>

#include <cerrno>

#include "bindings/columns.h"
#include "bindings/operators.h"
#include "core/check.h"

namespace fastdet::bindings {
namespace {

namespace ds = fastdet::dataset;
namespace py = pybind11;
using ds::Index;
template <typename T>
using Column = py::array_t<T, py::array::c_style>;

py::bytes letters_of(const ds::Texts& texts, Index i) {
  const ds::TextsView view{texts.letters.data(), texts.starts.data(), texts.size()};
  return {view[i].data(), view[i].size()};
}

py::array bytes_of(std::vector<char>&& letters) { return array_of(std::move(letters)).attr("view")("uint8"); }

py::array points_of(std::vector<float>&& numbers) {
  const auto count = static_cast<py::ssize_t>(numbers.size() / 2);
  return array_of(std::move(numbers), {count, 2});
}

// The starts become addresses, so they are checked.
ds::TextsView view_of(const Column<std::uint8_t>& letters, const Column<Index>& starts, const char* name) {
  const Index count = starts.size() - 1;
  FD_CHECK(
      letters.ndim() == 1 && starts.ndim() == 1 && count >= 0 && starts.data()[0] == 0 && starts.data()[count] == letters.size(),
      ValueError, name, ": starts must rise from 0 to the number of letters");
  for (Index i = 0; i < count; ++i) {
    FD_CHECK(starts.data()[i] <= starts.data()[i + 1], ValueError, name, ": starts must rise");
  }
  return {reinterpret_cast<const char*>(letters.data()), starts.data(), count};
}

py::object read_coco(const std::string& path, bool polygons) {
  std::optional<ds::Coco> found;
  {
    const py::gil_scoped_release released;
    found = ds::read_coco(path, polygons);
  }
  if (!found) return py::none();
  py::dict out;
  py::list names;
  for (Index i = 0; i < found->category_names.size(); ++i) names.append(letters_of(found->category_names, i));
  out["names"] = names;
  out["category_ids"] = found->category_ids;
  out["suspicious"] = found->suspicious;
  out["paths"] = bytes_of(std::move(found->names.letters));
  out["path_starts"] = array_of(std::move(found->names.starts));
  out["picture_id"] = array_of(std::move(found->picture_id));
  out["annotation_id"] = array_of(std::move(found->annotation_id));
  out["crowd"] = array_of(std::move(found->crowd));
  const auto boxes = static_cast<py::ssize_t>(found->area.size());
  out["height"] = array_of(std::move(found->height));
  out["width"] = array_of(std::move(found->width));
  out["picture"] = array_of(std::move(found->picture));
  out["label"] = array_of(std::move(found->label));
  out["box"] = array_of(std::move(found->box), {boxes, 4});
  out["area"] = array_of(std::move(found->area));
  out["point"] = points_of(std::move(found->point));
  out["ring_starts"] = array_of(std::move(found->ring_starts));
  out["polygon_starts"] = array_of(std::move(found->polygon_starts));
  return out;
}

py::array not_plain(const std::string& folder, const Column<std::uint8_t>& letters, const Column<Index>& starts, bool links) {
  const ds::TextsView names = view_of(letters, starts, "dataset_not_plain");
  std::vector<std::uint8_t> found;
  {
    const py::gil_scoped_release released;
    found = ds::not_plain(folder, names, links);
  }
  return array_of(std::move(found)).attr("view")("bool");
}

// The two columns of texts, as Python has them.
py::tuple columns_of(ds::Texts&& texts) {
  return py::make_tuple(bytes_of(std::move(texts.letters)), array_of(std::move(texts.starts)));
}

py::dict read_yolo(const std::string& folder, const Column<std::uint8_t>& letters, const Column<Index>& starts,
                   const std::string& label_folder, const Column<std::uint8_t>& label_letters, const Column<Index>& label_starts,
                   const Column<std::uint8_t>& left, Index classes, Index keypoint_values, bool polygons) {
  const char* const op = "dataset_read_yolo";
  const ds::Files pictures{folder, view_of(letters, starts, op)}, labels{label_folder, view_of(label_letters, label_starts, op)};
  const Index count = pictures.names.count;
  FD_CHECK(left.size() == count, ValueError, op, ": left must have ", count, " numbers, got ", left.size());
  FD_CHECK(classes == 0 || labels.names.count == count, ValueError, op, ": there must be a label file a picture");
  FD_CHECK(classes >= 0 && keypoint_values >= 0, ValueError, op, ": counts must not be negative");
  ds::Yolo found;
  {
    const py::gil_scoped_release released;
    found = ds::read_yolo(pictures, labels, left.data(), {classes, keypoint_values, polygons});
  }
  py::dict out;
  const auto boxes = static_cast<py::ssize_t>(found.label.size());
  out["height"] = array_of(std::move(found.height));
  out["width"] = array_of(std::move(found.width));
  out["counts"] = array_of(std::move(found.counts));
  out["unclean"] = array_of(std::move(found.unclean));
  out["label"] = array_of(std::move(found.label));
  out["box"] = array_of(std::move(found.box), {boxes, 4});
  out["corners"] = array_of(std::move(found.corners));
  out["point"] = points_of(std::move(found.point));
  return out;
}

py::array file_states(const std::string& folder, const Column<std::uint8_t>& letters, const Column<Index>& starts) {
  const ds::Files files{folder, view_of(letters, starts, "dataset_file_states")};
  std::vector<Index> found;
  {
    const py::gil_scoped_release released;
    found = ds::file_states(files);
  }
  return array_of(std::move(found));
}

py::tuple list_folder(const std::string& folder, const std::string& begin, const std::vector<std::string>& suffixes) {
  ds::Folder found;
  {
    const py::gil_scoped_release released;
    found = ds::list_folder(folder, begin, suffixes);
  }
  if (found.error != 0) {
    errno = found.error;
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, folder.c_str());
    throw py::error_already_set();
  }
  py::list others;
  for (Index i = 0; i < found.others.size(); ++i) others.append(letters_of(found.others, i));
  return py::make_tuple(columns_of(std::move(found.pictures)), others);
}

py::tuple sorted_names(const Column<std::uint8_t>& letters, const Column<Index>& starts) {
  const ds::TextsView names = view_of(letters, starts, "dataset_sorted");
  ds::Texts found;
  {
    const py::gil_scoped_release released;
    found = ds::sorted_names(names);
  }
  return columns_of(std::move(found));
}

py::tuple folders_of(const Column<std::uint8_t>& letters, const Column<Index>& starts) {
  const ds::TextsView names = view_of(letters, starts, "dataset_folders");
  ds::FoldersOf found;
  {
    const py::gil_scoped_release released;
    found = ds::folders_of(names);
  }
  return py::make_tuple(array_of(std::move(found.number)), array_of(std::move(found.first)));
}

py::tuple label_names(const Column<std::uint8_t>& letters, const Column<Index>& starts, const Column<std::int32_t>& folder,
                      const Column<std::uint8_t>& label_letters, const Column<Index>& label_starts) {
  const char* const op = "dataset_label_names";
  const ds::TextsView pictures = view_of(letters, starts, op), folders = view_of(label_letters, label_starts, op);
  FD_CHECK(folder.size() == pictures.count, ValueError, op, ": folder must have ", pictures.count, " numbers, got ",
           folder.size());
  for (Index i = 0; i < pictures.count; ++i) {
    const std::int32_t number = folder.data()[i];
    FD_CHECK(0 <= number && number < folders.count, ValueError, op, ": folder must lie in 0..", folders.count - 1, ", got ",
             number);
  }
  ds::LabelNames found;
  {
    const py::gil_scoped_release released;
    found = ds::label_names(pictures, folder.data(), folders);
  }
  return py::make_tuple(columns_of(std::move(found.names)), array_of(std::move(found.special)));
}

}  // namespace

void bind_dataset(py::module_& module) {
  module.def("dataset_read_coco", &read_coco, py::arg("path"), py::arg("polygons"));
  module.def("dataset_not_plain", &not_plain, py::arg("folder"), py::arg("letters"), py::arg("starts"), py::arg("links"));
  module.def("dataset_read_yolo", &read_yolo, py::arg("folder"), py::arg("letters"), py::arg("starts"), py::arg("label_folder"),
             py::arg("label_letters"), py::arg("label_starts"), py::arg("left"), py::arg("classes"), py::arg("keypoint_values"),
             py::arg("polygons"));
  module.def("dataset_file_states", &file_states, py::arg("folder"), py::arg("letters"), py::arg("starts"));
  module.def("dataset_list_folder", &list_folder, py::arg("folder"), py::arg("begin"), py::arg("suffixes"));
  module.def("dataset_sorted", &sorted_names, py::arg("letters"), py::arg("starts"));
  module.def("dataset_folders", &folders_of, py::arg("letters"), py::arg("starts"));
  module.def("dataset_label_names", &label_names, py::arg("letters"), py::arg("starts"), py::arg("folder"),
             py::arg("label_letters"), py::arg("label_starts"));
}

}  // namespace fastdet::bindings
