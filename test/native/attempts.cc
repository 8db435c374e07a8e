// SPDX-License-Identifier: Apache-2.0
// An addon that makes one system call of a list by name, with arguments that do no harm, and says what errno came of it. For tests of the filter
// alone: that is why it is not in the agent's addon.
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <node_api.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace
{

long bpf(int command)
{
	bpf_attr nothing;
	std::memset(&nothing, 0xff, sizeof(nothing));
	return ::syscall(SYS_bpf, command, &nothing, sizeof(nothing));
}

long open_and_close(int family)
{
	const int socket = ::socket(family, SOCK_RAW, 0);
	return socket < 0 ? -1 : ::close(socket);
}

const std::map<std::string, std::function<long()>> attempts = {
	{"bpf PROG_LOAD", [] { return bpf(BPF_PROG_LOAD); }},
	{"bpf MAP_CREATE", [] { return bpf(BPF_MAP_CREATE); }},
	{"bpf BTF_LOAD", [] { return bpf(BPF_BTF_LOAD); }},
	{"bpf PROG_TEST_RUN", [] { return bpf(BPF_PROG_TEST_RUN); }},
	{"bpf PROG_ATTACH", [] { return bpf(BPF_PROG_ATTACH); }},
	{"bpf MAP_LOOKUP_ELEM", [] { return bpf(BPF_MAP_LOOKUP_ELEM); }},
	{"bpf LINK_CREATE", [] { return bpf(BPF_LINK_CREATE); }},
	{"socket AF_PACKET", [] { return open_and_close(AF_PACKET); }},
	{"socket AF_ALG", [] { return open_and_close(AF_ALG); }},
	{"socket AF_NETLINK", [] { return open_and_close(AF_NETLINK); }},
	{"setns mount", [] { return static_cast<long>(::setns(-1, CLONE_NEWNS)); }},
	{"setns any", [] { return static_cast<long>(::setns(-1, 0)); }},
	{"setns net", [] { return static_cast<long>(::setns(-1, CLONE_NEWNET)); }},
	{"unshare", [] { return static_cast<long>(::unshare(0)); }},
	{"clone process", [] { return ::syscall(SYS_clone, CLONE_SIGHAND, 0, 0, 0, 0); }},
	{"clone namespace", [] { return ::syscall(SYS_clone, CLONE_THREAD | CLONE_NEWUSER, 0, 0, 0, 0); }},
	{"execve", [] { return ::syscall(SYS_execve, "", nullptr, nullptr); }},
	{"ptrace", [] { return ::syscall(SYS_ptrace, PTRACE_CONT, -1, nullptr, nullptr); }},
	{"process_vm_readv", [] { return ::syscall(SYS_process_vm_readv, -1, nullptr, 0, nullptr, 0, 0); }},
	{"mount", [] { return ::syscall(SYS_mount, nullptr, nullptr, nullptr, 0, nullptr); }},
	{"umount2", [] { return ::syscall(SYS_umount2, "", 0); }},
	{"chroot", [] { return ::syscall(SYS_chroot, ""); }},
	{"init_module", [] { return ::syscall(SYS_init_module, nullptr, 0, nullptr); }},
	{"perf_event_open", [] { return ::syscall(SYS_perf_event_open, nullptr, 0, 0, -1, 0); }},
	{"mknodat", [] { return ::syscall(SYS_mknodat, -1, "", 0, 0); }},
	{"kill another", [] { return ::syscall(SYS_kill, ::getppid(), 0); }},
	{"tgkill another", [] { return ::syscall(SYS_tgkill, ::getppid(), ::getppid(), 0); }},
	{"io_uring_setup", [] { return ::syscall(SYS_io_uring_setup, 0, nullptr); }},
	{"clone3", [] { return ::syscall(SYS_clone3, nullptr, 0); }},
};

napi_value attempt(napi_env env, napi_callback_info info)
{
	std::size_t count = 1;
	napi_value argument;
	char name[64] = "";
	std::size_t length = 0;
	napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
	napi_get_value_string_utf8(env, argument, name, sizeof(name), &length);
	const auto found = attempts.find(name);
	if (found == attempts.end()) {
		napi_throw_error(env, nullptr, "no such attempt");
		return nullptr;
	}
	errno = 0;
	const int error = found->second() < 0 ? errno : 0;
	napi_value result;
	napi_create_int32(env, error, &result);
	return result;
}

} // namespace

NAPI_MODULE_INIT()
{
	napi_value function;
	napi_create_function(env, "attempt", NAPI_AUTO_LENGTH, attempt, nullptr, &function);
	napi_set_named_property(env, exports, "attempt", function);
	return exports;
}
