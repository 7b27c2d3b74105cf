// SPDX-License-Identifier: Apache-2.0
#include "dataset/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fastdet::dataset {
namespace {

constexpr std::int64_t kReleaseBytes = 64 << 20;  // a multiple of every page size

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int handle = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (handle < 0) return;
  struct stat status{};
  if (fstat(handle, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    void* mapped = mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, handle, 0);
    if (mapped != MAP_FAILED) {
      data_ = static_cast<char*>(mapped);
      size_ = status.st_size;
    }
  }
  close(handle);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(size_));
}

void MappedFile::passed(const char* position) {
  const std::int64_t whole = (position - data_) / kReleaseBytes * kReleaseBytes;
  if (whole <= released_) return;
  madvise(data_ + released_, static_cast<std::size_t>(whole - released_), MADV_DONTNEED);
  released_ = whole;
}

}  // namespace fastdet::dataset
