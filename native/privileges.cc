// SPDX-License-Identifier: Apache-2.0
// Capabilities are a thread's own, and the kernel has no call that takes them from all of a process: so each is asked by a signal.
// A seccomp filter is set for all threads at once.
#include "privileges.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <dirent.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"

namespace postern
{

namespace
{

constexpr int last_capability = 63;
// Longer than a thread takes to get a signal, on a machine that is busy; the caller waits.
constexpr int patience_ms = 2000;

bool holds(Capabilities set, int capability)
{
	return set >> capability & 1;
}

struct Sets {
	__user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
	__user_cap_data_struct halves[2]{};
};

Capabilities effective(const Sets &sets)
{
	return sets.halves[0].effective | static_cast<Capabilities>(sets.halves[1].effective) << 32;
}

std::atomic<Capabilities> kept_by_all{0};

// Of the calling thread. Only system calls: it runs in a signal handler, too. Returns 0 or an errno.
int keep_here(Capabilities kept)
{
	Sets sets;
	if (::syscall(SYS_capget, &sets.header, sets.halves))
		return errno;
	if (holds(effective(sets), CAP_SETPCAP))
		for (int capability = 0; capability <= last_capability; capability++)
			if (!holds(kept, capability) && ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1 &&
			    ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
				return errno;
	// Linux before 4.3 has no ambient set to empty.
	(void)::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int half = 0; half < 2; half++) {
		const auto bits = static_cast<__u32>(kept >> (32 * half));
		sets.halves[half].effective &= bits;
		sets.halves[half].permitted &= bits;
		sets.halves[half].inheritable = 0;
	}
	return ::syscall(SYS_capset, &sets.header, sets.halves) ? errno : 0;
}

// What it leaves undone is seen in /proc.
void on_signal(int)
{
	const int before = errno;
	(void)keep_here(kept_by_all.load());
	errno = before;
}

std::vector<pid_t> threads()
{
	std::vector<pid_t> found;
	DIR *folder = ::opendir("/proc/self/task");
	if (!folder)
		throw Failure(errno, "list threads");
	while (const dirent *entry = ::readdir(folder))
		if (entry->d_name[0] != '.')
			found.push_back(static_cast<pid_t>(std::stol(entry->d_name)));
	::closedir(folder);
	return found;
}

struct ThreadStatus {
	Capabilities permitted = 0;
	std::uint64_t blocked = 0; // signals; bit n for signal n + 1
};

// Nothing of a thread that has ended.
ThreadStatus status_of(pid_t thread)
{
	std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/status");
	ThreadStatus status;
	std::string line;
	while (std::getline(file, line)) {
		if (line.compare(0, 7, "CapPrm:") == 0)
			status.permitted = std::stoull(line.substr(7), nullptr, 16);
		if (line.compare(0, 7, "SigBlk:") == 0)
			status.blocked = std::stoull(line.substr(7), nullptr, 16);
	}
	return status;
}

std::string name_of(pid_t thread)
{
	std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/comm");
	std::string name;
	std::getline(file, name);
	return std::to_string(thread) + " (" + name + ")";
}

// For good: a thread may get round to the signal long after it was sent, and by itself it would end the process.
void handle(int signal)
{
	struct sigaction action {
	};
	action.sa_handler = on_signal;
	action.sa_flags = SA_RESTART | SA_ONSTACK;
	sigfillset(&action.sa_mask);
	if (::sigaction(signal, &action, nullptr))
		throw Failure(errno, "drop capabilities");
}

} // namespace

Capabilities keep_capabilities(Capabilities kept)
{
	const std::string operation = "drop capabilities";
	kept_by_all = kept;
	const int error = keep_here(kept);
	if (error)
		throw Failure(error, operation);

	const int signal = SIGRTMAX - 1;
	handle(signal);
	const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
	std::set<pid_t> asked;
	// Twice, since a thread may have made another just before it was asked.
	for (int clean = 0; clean < 2;) {
		bool is_clean = true;
		for (const pid_t thread : threads()) {
			const ThreadStatus status = status_of(thread);
			if (!(status.permitted & ~kept))
				continue;
			is_clean = false;
			// For a moment while it starts, or for ever.
			const bool is_deaf = status.blocked >> (signal - 1) & 1;
			if (std::chrono::steady_clock::now() > deadline)
				throw Failure(is_deaf ? EBUSY : ETIMEDOUT, operation,
					      "thread " + name_of(thread) +
						      (is_deaf ? " takes no signals" : " has not taken a signal"));
			if (asked.insert(thread).second && ::syscall(SYS_tgkill, ::getpid(), thread, signal) && errno != ESRCH)
				throw Failure(errno, operation);
		}
		clean = is_clean ? clean + 1 : 0;
		if (!is_clean)
			std::this_thread::sleep_for(std::chrono::milliseconds(1));
	}
	return status_of(static_cast<pid_t>(::syscall(SYS_gettid))).permitted;
}

namespace
{

#if defined(__x86_64__)
constexpr std::uint32_t architecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t architecture = AUDIT_ARCH_AARCH64;
#else
constexpr std::uint32_t architecture = 0;
#endif

// What Node, libbpf and this addon call once everything is loaded, whatever their arguments. Some of it only on one processor, or
// with another libc.
constexpr std::uint32_t plain[] = {
	// files and folders
	SYS_read,
	SYS_write,
	SYS_readv,
	SYS_writev,
	SYS_pread64,
	SYS_pwrite64,
	SYS_preadv,
	SYS_pwritev,
	SYS_lseek,
	SYS_openat,
	SYS_close,
	SYS_close_range,
	SYS_fstat,
	SYS_newfstatat,
	SYS_statx,
	SYS_statfs,
	SYS_fstatfs,
	SYS_getdents64,
	SYS_readlinkat,
	SYS_faccessat,
	SYS_faccessat2,
	SYS_mkdirat,
	SYS_unlinkat,
	SYS_renameat,
	SYS_renameat2,
	SYS_symlinkat,
	SYS_linkat,
	SYS_ftruncate,
	SYS_fsync,
	SYS_fdatasync,
	SYS_fchmod,
	SYS_fchmodat,
	SYS_fchown,
	SYS_fchownat,
	SYS_utimensat,
	SYS_flock,
	SYS_fcntl,
	SYS_dup,
	SYS_dup3,
	SYS_ioctl,
	SYS_getcwd,
	SYS_umask,
	SYS_fadvise64,
	SYS_copy_file_range,
	SYS_sendfile,
#ifdef SYS_open
	SYS_open,
	SYS_stat,
	SYS_lstat,
	SYS_access,
	SYS_readlink,
	SYS_mkdir,
	SYS_rmdir,
	SYS_unlink,
	SYS_rename,
	SYS_chmod,
	SYS_dup2,
#endif
	// memory
	SYS_mmap,
	SYS_munmap,
	SYS_mprotect,
	SYS_mremap,
	SYS_madvise,
	SYS_brk,
	SYS_membarrier,
	SYS_mincore,
	SYS_pkey_alloc,
	SYS_pkey_free,
	SYS_pkey_mprotect,
	// threads, signals, time
	SYS_futex,
	SYS_set_robust_list,
	SYS_get_robust_list,
	SYS_rseq,
	SYS_set_tid_address,
	SYS_gettid,
	SYS_getpid,
	SYS_getppid,
	SYS_exit,
	SYS_exit_group,
	SYS_rt_sigaction,
	SYS_rt_sigprocmask,
	SYS_rt_sigreturn,
	SYS_rt_sigtimedwait,
	SYS_sigaltstack,
	SYS_restart_syscall,
	SYS_sched_yield,
	SYS_sched_getaffinity,
	SYS_sched_getparam,
	SYS_sched_getscheduler,
	SYS_getpriority,
	SYS_clock_gettime,
	SYS_clock_getres,
	SYS_clock_nanosleep,
	SYS_nanosleep,
	SYS_gettimeofday,
	SYS_getrusage,
	SYS_times,
	SYS_getcpu,
	SYS_sysinfo,
	SYS_uname,
	SYS_getrandom,
	SYS_prlimit64,
	SYS_getuid,
	SYS_geteuid,
	SYS_getgid,
	SYS_getegid,
	SYS_capget,
	SYS_prctl,
#ifdef SYS_arch_prctl
	SYS_arch_prctl,
	SYS_getrlimit,
	SYS_time,
#endif
	// waiting
	SYS_io_uring_enter,
	SYS_epoll_create1,
	SYS_epoll_ctl,
	SYS_epoll_pwait,
	SYS_epoll_pwait2,
	SYS_ppoll,
	SYS_pselect6,
	SYS_eventfd2,
	SYS_pipe2,
	SYS_timerfd_create,
	SYS_timerfd_settime,
	SYS_inotify_init1,
	SYS_inotify_add_watch,
	SYS_inotify_rm_watch,
#ifdef SYS_poll
	SYS_poll,
	SYS_select,
	SYS_epoll_wait,
	SYS_pipe,
	SYS_eventfd,
#endif
	// sockets, once there
	SYS_bind,
	SYS_listen,
	SYS_accept,
	SYS_accept4,
	SYS_connect,
	SYS_shutdown,
	SYS_getsockname,
	SYS_getpeername,
	SYS_setsockopt,
	SYS_getsockopt,
	SYS_sendto,
	SYS_recvfrom,
	SYS_sendmsg,
	SYS_recvmsg,
	SYS_sendmmsg,
	SYS_recvmmsg,
};

// No program and no map is made any more: these read and write maps, attach what is loaded, and look at what is attached.
constexpr std::uint32_t bpf_commands[] = {
	BPF_MAP_LOOKUP_ELEM,
	BPF_MAP_UPDATE_ELEM,
	BPF_MAP_DELETE_ELEM,
	BPF_MAP_GET_NEXT_KEY,
	BPF_MAP_LOOKUP_AND_DELETE_ELEM,
	BPF_MAP_LOOKUP_BATCH,
	BPF_MAP_LOOKUP_AND_DELETE_BATCH,
	BPF_MAP_UPDATE_BATCH,
	BPF_MAP_DELETE_BATCH,
	BPF_OBJ_PIN,
	BPF_OBJ_GET,
	BPF_OBJ_GET_INFO_BY_FD,
	BPF_PROG_QUERY,
	BPF_PROG_GET_NEXT_ID,
	BPF_MAP_GET_NEXT_ID,
	BPF_LINK_GET_NEXT_ID,
	BPF_PROG_GET_FD_BY_ID,
	BPF_MAP_GET_FD_BY_ID,
	BPF_LINK_GET_FD_BY_ID,
	BPF_BTF_GET_FD_BY_ID,
	BPF_LINK_CREATE,
	BPF_LINK_UPDATE,
	BPF_LINK_DETACH,
};

constexpr std::uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

constexpr std::uint32_t new_namespaces =
	CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

// Calls that came later than this list. Who asks for one has something else to do where there is none.
constexpr std::uint32_t last_known = 462; // mseal, Linux 6.10
// As if they were not there. glibc makes threads by clone(2) where there is no clone3, whose flags no filter can see; libuv does
// without io_uring, whose requests no filter sees either. A ring that it has already it must be able to use: it aborts otherwise.
constexpr std::uint32_t unseen[] = {SYS_clone3, SYS_io_uring_setup, SYS_io_uring_register};

class Filter
{
      public:
	void load(std::size_t offset)
	{
		code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<__u32>(offset)));
	}
	// The low half is all that the kernel looks at in an argument of 32 bits; both processors keep it first.
	void load_argument(std::size_t index)
	{
		load(offsetof(seccomp_data, args) + index * sizeof(__u64));
	}
	void mask(std::uint32_t bits)
	{
		code_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits));
	}
	void answer(std::uint32_t action)
	{
		code_.push_back(BPF_STMT(BPF_RET | BPF_K, action));
	}
	void answer_if(std::uint32_t value, std::uint32_t action)
	{
		code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
		answer(action);
	}
	void refuse_unless(std::uint32_t value)
	{
		code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0));
		answer(SECCOMP_RET_ERRNO | EPERM);
	}
	void answer_above(std::uint32_t value, std::uint32_t action)
	{
		code_.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, value, 0, 1));
		answer(action);
	}
	// Until end_call(), only for this system call. What is not answered by then is refused.
	void begin_call(std::uint32_t call)
	{
		code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 0));
		begun_ = code_.size();
	}
	void end_call()
	{
		answer(SECCOMP_RET_ERRNO | EPERM);
		code_[begun_ - 1].jf = static_cast<__u8>(code_.size() - begun_);
	}

	std::vector<sock_filter> take()
	{
		return std::move(code_);
	}

      private:
	std::vector<sock_filter> code_;
	std::size_t begun_ = 0;
};

std::vector<sock_filter> agents_filter()
{
	constexpr std::uint32_t refuse = SECCOMP_RET_ERRNO | EPERM;
	constexpr std::uint32_t absent = SECCOMP_RET_ERRNO | ENOSYS;
	Filter filter;

	// Calls of another architecture have other numbers.
	filter.load(offsetof(seccomp_data, arch));
	filter.refuse_unless(architecture);
	filter.load(offsetof(seccomp_data, nr));

	for (const std::uint32_t call : plain)
		filter.answer_if(call, SECCOMP_RET_ALLOW);
	for (const std::uint32_t call : unseen)
		filter.answer_if(call, absent);

	filter.begin_call(SYS_bpf);
	filter.load_argument(0);
	for (const std::uint32_t command : bpf_commands)
		filter.answer_if(command, SECCOMP_RET_ALLOW);
	filter.end_call();

	filter.begin_call(SYS_socket);
	filter.load_argument(0);
	for (const std::uint32_t family : families)
		filter.answer_if(family, SECCOMP_RET_ALLOW);
	filter.end_call();

	filter.begin_call(SYS_socketpair);
	filter.load_argument(0);
	filter.answer_if(AF_UNIX, SECCOMP_RET_ALLOW);
	filter.end_call();

	// Network namespaces of pods, and no other kind.
	filter.begin_call(SYS_setns);
	filter.load_argument(1);
	filter.answer_if(CLONE_NEWNET, SECCOMP_RET_ALLOW);
	filter.end_call();

	// Threads; no process, and no namespace.
	filter.begin_call(SYS_clone);
	filter.load_argument(0);
	filter.mask(CLONE_THREAD | new_namespaces);
	filter.answer_if(CLONE_THREAD, SECCOMP_RET_ALLOW);
	filter.end_call();

	// Signals to this process alone.
	filter.begin_call(SYS_tgkill);
	filter.load_argument(0);
	filter.answer_if(static_cast<std::uint32_t>(::getpid()), SECCOMP_RET_ALLOW);
	filter.end_call();

	// x32's numbers of x86-64 are above all.
	filter.answer_above(0x3fffffff, refuse);
	filter.answer_above(last_known, absent);
	filter.answer(refuse);
	return filter.take();
}

} // namespace

void filter_system_calls()
{
	const std::string operation = "filter system calls";
	if (architecture == 0)
		throw Failure(ENOTSUP, operation, "no list for this processor");
	std::vector<sock_filter> code = agents_filter();
	const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
	// Without it the kernel takes filters of CAP_SYS_ADMIN alone. TSYNC carries both to every thread.
	if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		throw Failure(errno, operation);
	const long failed = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
	if (failed)
		throw Failure(failed < 0 ? errno : ESRCH, operation,
			      failed < 0 ? "" : "thread " + std::to_string(failed) + " has a filter of its own");
}

} // namespace postern
