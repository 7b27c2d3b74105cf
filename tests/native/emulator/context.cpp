// SPDX-License-Identifier: Apache-2.0
#include "context.h"

#include <cstdint>

#if defined(FASTDET_EMULATOR_UCONTEXT)

namespace fastdet::emulator {

void prepare_context(Context& context, void* stack, std::size_t bytes, void (*entry)()) {
  getcontext(&context.saved);
  context.saved.uc_stack.ss_sp = stack;
  context.saved.uc_stack.ss_size = bytes;
  context.saved.uc_link = nullptr;
  makecontext(&context.saved, entry, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(&from.saved, &to.saved); }

}  // namespace fastdet::emulator

#else

// Saves what the platform's ABI has a callee preserve, floating-point control words included.
extern "C" void fastdet_emulator_switch(void** save_stack_pointer, void* load_stack_pointer);

#if defined(__x86_64__)
asm(R"(
.text
.globl fastdet_emulator_switch
.hidden fastdet_emulator_switch
.type fastdet_emulator_switch, @function
fastdet_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastdet_emulator_switch, . - fastdet_emulator_switch
)");
#else
asm(R"(
.text
.globl fastdet_emulator_switch
.hidden fastdet_emulator_switch
.type fastdet_emulator_switch, %function
fastdet_emulator_switch:
  sub sp, sp, #176
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mrs x9, fpcr
  str x9, [sp, #160]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldr x9, [sp, #160]
  msr fpcr, x9
  ldp d14, d15, [sp, #144]
  ldp d12, d13, [sp, #128]
  ldp d10, d11, [sp, #112]
  ldp d8, d9, [sp, #96]
  ldp x29, x30, [sp, #80]
  ldp x27, x28, [sp, #64]
  ldp x25, x26, [sp, #48]
  ldp x23, x24, [sp, #32]
  ldp x21, x22, [sp, #16]
  ldp x19, x20, [sp, #0]
  add sp, sp, #176
  ret
.size fastdet_emulator_switch, . - fastdet_emulator_switch
)");
#endif

namespace fastdet::emulator {

// Lays the stack out as if the context had called fastdet_emulator_switch from the first instruction of entry.
void prepare_context(Context& context, void* stack, std::size_t bytes, void (*entry)()) {
  auto* const top = reinterpret_cast<std::uint64_t*>(static_cast<char*>(stack) + bytes);  // 16-byte aligned
#if defined(__x86_64__)
  std::uint64_t* const frame = top - 9;
  for (int word = 0; word < 9; ++word) frame[word] = 0;  // a zero return address ends stack traces
  std::uint32_t control = 0;
  std::uint16_t x87_control = 0;
  asm volatile("stmxcsr %0" : "=m"(control));
  asm volatile("fnstcw %0" : "=m"(x87_control));
  frame[0] = static_cast<std::uint64_t>(x87_control) << 32 | control;
  frame[7] = reinterpret_cast<std::uint64_t>(entry);
#else
  std::uint64_t* const frame = top - 22;
  for (int word = 0; word < 22; ++word) frame[word] = 0;
  asm volatile("mrs %0, fpcr" : "=r"(frame[20]));
  frame[11] = reinterpret_cast<std::uint64_t>(entry);  // x30, where ret goes
#endif
  context.stack_pointer = frame;
}

void switch_context(Context& from, Context& to) { fastdet_emulator_switch(&from.stack_pointer, to.stack_pointer); }

}  // namespace fastdet::emulator

#endif
