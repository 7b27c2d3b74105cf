// SPDX-License-Identifier: Apache-2.0
// A stack of execution that can be left and entered again. About 20 instructions where the machine is known; ucontext,
// which is some twenty times slower, elsewhere or with FASTDET_EMULATOR_UCONTEXT.
#pragma once

#include <cstddef>

#if !defined(__linux__) || !(defined(__x86_64__) || defined(__aarch64__))
#define FASTDET_EMULATOR_UCONTEXT
#endif

#if defined(FASTDET_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace fastdet::emulator {

struct Context {
#if defined(FASTDET_EMULATOR_UCONTEXT)
  ucontext_t saved;
#else
  void* stack_pointer = nullptr;
#endif
};

// The first switch to the context calls entry on the given stack; entry must not return.
void prepare_context(Context& context, void* stack, std::size_t bytes, void (*entry)());
// Continues `to`; returns when something switches back to `from`.
void switch_context(Context& from, Context& to);

}  // namespace fastdet::emulator
