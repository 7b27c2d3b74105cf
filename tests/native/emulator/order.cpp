// SPDX-License-Identifier: Apache-2.0
#include "order.h"

#include <cstdlib>

namespace fastdet::emulator {

bool parse_schedule(const std::string& text, Schedule& schedule) {
  const std::string shuffled = "shuffled";
  if (text == "forward") {
    schedule = {Order::forward, 0};
  } else if (text == "reverse") {
    schedule = {Order::reverse, 0};
  } else if (text == shuffled) {
    schedule = {Order::shuffled, 0};
  } else if (text.rfind(shuffled + ":", 0) == 0) {
    const char* const digits = text.c_str() + shuffled.size() + 1;
    char* end = nullptr;
    schedule = {Order::shuffled, std::strtoull(digits, &end, 10)};
    return end != digits && *end == '\0';
  } else {
    return false;
  }
  return true;
}

ThreadOrder::ThreadOrder(Schedule schedule, int threads) : schedule_(schedule), random_(schedule.seed), count_(threads) {
  for (int i = 0; i < threads; ++i) position_[i] = schedule.order == Order::reverse ? threads - 1 - i : i;
}

void ThreadOrder::start_round() {
  cursor_ = 0;
  if (schedule_.order != Order::shuffled) return;
  for (int last = count_ - 1; last > 0; --last) {
    const int other = static_cast<int>(random_.below(static_cast<std::uint64_t>(last) + 1));
    const int thread = position_[last];
    position_[last] = position_[other];
    position_[other] = thread;
  }
}

std::vector<std::uint64_t> block_order(Schedule schedule, std::uint64_t blocks) {
  std::vector<std::uint64_t> order(blocks);
  for (std::uint64_t i = 0; i < blocks; ++i) order[i] = schedule.order == Order::reverse ? blocks - 1 - i : i;
  if (schedule.order == Order::shuffled) {
    Random random(schedule.seed);
    for (std::uint64_t last = blocks; last > 1; --last) std::swap(order[last - 1], order[random.below(last)]);
  }
  return order;
}

}  // namespace fastdet::emulator
