// SPDX-License-Identifier: Apache-2.0
// What this process can still do once it has what it needs: capabilities, and the system calls that are left. Knows nothing of BPF objects.
#ifndef POSTERN_PRIVILEGES_H
#define POSTERN_PRIVILEGES_H

#include <cstdint>

namespace postern
{

// Capabilities as bits, bit n for capability n of linux/capability.h.
using Capabilities = std::uint64_t;

// Gives up, for ever and in every thread, all capabilities but these: effective, permitted, inheritable and ambient; where CAP_SETPCAP
// is held, the bounding set's too. Returns what is permitted from now on.
Capabilities keep_capabilities(Capabilities kept);

// no_new_privs, and a filter that leaves the system calls that a running agent makes, for ever and in every thread. What is not
// among them fails with EPERM. ENOTSUP: there is no list for this processor.
void filter_system_calls();

} // namespace postern

#endif
