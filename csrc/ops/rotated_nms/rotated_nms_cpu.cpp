// SPDX-License-Identifier: Apache-2.0
// CPU path of one picture: candidates sorted by group, then key; each group is walked by itself.
#include "core/scored_order.h"
#include "core/workspace.h"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_walk.h"

namespace fastdet {
namespace {

struct Slices {
  Slices(const RotatedNmsParams& p, void* base) : memory(base), walk(p, p.in.count(), p.in.count(), &memory) {
    memory.take(&keys, p.in.count());
  }
  Workspace memory;
  RotatedWalk walk;
  std::uint64_t* keys;
};

}  // namespace

std::size_t rotated_nms_cpu_workspace_bytes(const RotatedNmsParams& p) { return Slices(p, nullptr).memory.used(); }

void rotated_nms_cpu(const RotatedNmsParams& p) {
  const Slices s(p, p.workspace);
  const std::int64_t count = order_candidates(p.in, 0u, s.keys);
  s.walk.prepare(s.keys, count, [&](std::uint64_t key, float (&row)[5]) { p.in.row(candidate_number(key), row); });
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    end = end_of_group(p.in, s.keys, begin, count);
    s.walk.visit(begin, end, end - begin);
  }
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (s.walk.fallen[i] == 0) s.keys[kept++] = s.keys[i];
  }
  write_candidates(s.keys, kept, p.out);
}

}  // namespace fastdet
