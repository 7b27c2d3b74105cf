// SPDX-License-Identifier: Apache-2.0
// CPU path: candidates sorted by group, then key, prepared as columns; each group is walked by itself, in threads.
#include <algorithm>

#include "core/parallel.h"
#include "core/scored_order.h"
#include "core/workspace.h"
#include "ops/rotated_nms/rotated_nms.h"
#include "ops/rotated_nms/rotated_nms_columns.h"

namespace fastdet {
namespace {

constexpr std::int64_t kChunk = 256;  // candidates tested against the kept list at once
constexpr std::int64_t kGrain = 32;   // candidates worth waking a thread for

struct Slices {
  explicit Slices(const RotatedNmsParams& p, void* base) : memory(base), pitch(p.in.count()) {
    memory.take(&keys, pitch);
    memory.take(&columns, rotated::kFields * pitch);
    memory.take(&kept, p.fast ? 0 : rotated::kFields * pitch);
    memory.take(&fallen, pitch);
  }
  Workspace memory;
  std::int64_t pitch;
  std::uint64_t* keys;
  float* columns;        // all candidates, sorted
  float* kept;           // greedy: those kept of the group
  std::uint8_t* fallen;  // per candidate, sorted
};

struct Run {
  const RotatedNmsParams& p;
  RotatedRule rule;
  Slices s;

  bool falls(const float* better, std::int64_t begin, std::int64_t end, std::int64_t i) const {
    return rotated::falls(p.gaussian, rule, better, s.pitch, begin, end, s.columns, s.pitch, i);
  }
  // Every candidate of the group against all better ones.
  void fast(std::int64_t begin, std::int64_t end) const {
    parallel_for(end - begin, kGrain, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = begin + from; i < begin + to; ++i) s.fallen[i] = falls(s.columns, begin, i, i);
    });
  }
  // Against boxes kept before a chunk its candidates are independent; inside it they are visited in order.
  void greedy(std::int64_t begin, std::int64_t end) const {
    std::int64_t size = 0;
    for (std::int64_t start = begin; start < end; start += kChunk) {
      const std::int64_t stop = std::min(end, start + kChunk), before = size;
      parallel_for(stop - start, before > 512 ? kGrain : kChunk, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t i = start + from; i < start + to; ++i) s.fallen[i] = falls(s.kept, 0, before, i);
      });
      for (std::int64_t i = start; i < stop; ++i) {
        s.fallen[i] = s.fallen[i] != 0 || falls(s.kept, before, size, i);
        if (s.fallen[i] != 0) continue;
        for (int f = 0; f < rotated::kFields; ++f) s.kept[f * s.pitch + size] = s.columns[f * s.pitch + i];
        ++size;
      }
    }
  }
  void prepare(std::int64_t count) const {
    parallel_for(ceil_div(count, rotated::kPrepared), 8, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t start = from * rotated::kPrepared; start < std::min(count, to * rotated::kPrepared);
           start += rotated::kPrepared) {
        const std::int64_t n = std::min(rotated::kPrepared, count - start);
        alignas(64) float numbers[5 * rotated::kPrepared] = {};
        for (std::int64_t i = 0; i < n; ++i) {
          float row[5];
          p.in.row(candidate_number(s.keys[start + i]), row);
          for (int k = 0; k < 5; ++k) numbers[k * rotated::kPrepared + i] = row[k];
        }
        rotated::prepare(p.gaussian, rule, n, numbers, s.columns + start, s.pitch);
      }
    });
  }
};

}  // namespace

std::size_t rotated_nms_cpu_workspace_bytes(const RotatedNmsParams& p) { return Slices(p, nullptr).memory.used(); }

void rotated_nms_cpu(const RotatedNmsParams& p) {
  const Run run{p, rotated_rule(p.iou_threshold, p.degrees), Slices(p, p.workspace)};
  std::uint64_t* keys = run.s.keys;
  const std::int64_t count = order_candidates(p.in, 0u, keys);
  run.prepare(count);
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    end = end_of_group(p.in, keys, begin, count);
    p.fast ? run.fast(begin, end) : run.greedy(begin, end);
  }
  std::int64_t kept = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (run.s.fallen[i] == 0) keys[kept++] = keys[i];
  }
  write_candidates(keys, kept, p.out);
}

}  // namespace fastdet
