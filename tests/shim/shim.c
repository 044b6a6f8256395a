// Stands between a process and what hyperpy asks of the host (LD_PRELOAD), and makes a chosen call fail.
//
// Counted are KVM's ioctls, opening /dev/kvm, and what makes memory and timers; everything else passes uncounted. The
// process itself chooses, by the functions at the end through ctypes: tests/shim/drive.py.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Those that hyperpy makes, all of them: tests/kvm/test_failing_host.py holds the list against the sources.
#define KVM_CALL(name) {name, #name}
static const struct {
    unsigned long request;
    const char *name;
} NAMES[] = {
    KVM_CALL(KVM_GET_API_VERSION), KVM_CALL(KVM_CHECK_EXTENSION), KVM_CALL(KVM_GET_SUPPORTED_CPUID),
    KVM_CALL(KVM_GET_MSR_INDEX_LIST), KVM_CALL(KVM_CREATE_VM), KVM_CALL(KVM_GET_VCPU_MMAP_SIZE),
    KVM_CALL(KVM_SET_TSS_ADDR), KVM_CALL(KVM_SET_IDENTITY_MAP_ADDR), KVM_CALL(KVM_ENABLE_CAP),
    KVM_CALL(KVM_CREATE_IRQCHIP), KVM_CALL(KVM_CREATE_PIT2), KVM_CALL(KVM_SET_GSI_ROUTING), KVM_CALL(KVM_IRQ_LINE),
    KVM_CALL(KVM_IRQFD), KVM_CALL(KVM_SIGNAL_MSI), KVM_CALL(KVM_IOEVENTFD),
    KVM_CALL(KVM_REGISTER_COALESCED_MMIO), KVM_CALL(KVM_UNREGISTER_COALESCED_MMIO),
    KVM_CALL(KVM_X86_SET_MSR_FILTER), KVM_CALL(KVM_SET_USER_MEMORY_REGION), KVM_CALL(KVM_GET_DIRTY_LOG),
    KVM_CALL(KVM_CLEAR_DIRTY_LOG), KVM_CALL(KVM_CREATE_VCPU), KVM_CALL(KVM_RUN), KVM_CALL(KVM_GET_REGS),
    KVM_CALL(KVM_SET_REGS), KVM_CALL(KVM_GET_SREGS), KVM_CALL(KVM_SET_SREGS), KVM_CALL(KVM_GET_FPU),
    KVM_CALL(KVM_SET_FPU), KVM_CALL(KVM_GET_XSAVE), KVM_CALL(KVM_SET_XSAVE), KVM_CALL(KVM_GET_MSRS),
    KVM_CALL(KVM_SET_MSRS), KVM_CALL(KVM_GET_CPUID2), KVM_CALL(KVM_SET_CPUID2), KVM_CALL(KVM_GET_LAPIC),
    KVM_CALL(KVM_SET_LAPIC), KVM_CALL(KVM_GET_MP_STATE), KVM_CALL(KVM_SET_GUEST_DEBUG),
};

// What is to fail: of the calls with this name (any, if empty) and this argument (any, if -1) the one that `left` counts
// down to, with `error`, or with a result instead if `error` is 0.
static char only[64];
static long argument = -1;
static int error;
static int result;
static atomic_long left;
static atomic_long calls;
static _Atomic(const char *) failed;

// Whether this call fails now.
static int fails(const char *name, long arg) {
    if ((*only && strcmp(only, name) != 0) || (argument != -1 && argument != arg)) return 0;
    atomic_fetch_add(&calls, 1);
    if (atomic_load(&left) <= 0 || atomic_fetch_sub(&left, 1) != 1) return 0;
    atomic_store(&failed, name);
    errno = error;
    return 1;
}

// A capability that this host does not have, by its number; -1: it has all that it has.
static long lacking = -1;

// A mapping that is not counted.
static void *syscall_mmap(int fd) {
    return (void *)syscall(SYS_mmap, NULL, sizeof(struct kvm_run), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static int failure(void) { return error ? -1 : result; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int ioctl(int fd, unsigned long request, ...) {
    REAL(ioctl);
    va_list list;
    va_start(list, request);
    void *arg = va_arg(list, void *);
    va_end(list);
    if (_IOC_TYPE(request) != KVMIO) return real(fd, request, arg);
    const char *name = "an ioctl without a name in shim.c";
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (NAMES[i].request == request) name = NAMES[i].name;
    if (!fails(name, (long)arg)) {
        if (request == KVM_CHECK_EXTENSION && (long)arg == lacking) return 0;
        return real(fd, request, arg);
    }
    if (request != KVM_RUN || error != EINTR) return failure();
    // An interrupted KVM_RUN has completed the access before it: only the real one can.
    struct kvm_run *run = syscall_mmap(fd);
    __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    int done = real(fd, request, arg);
    int was = errno;
    __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    munmap(run, sizeof *run);
    errno = was;
    return done;
}

static int open_fails(const char *path) { return strcmp(path, "/dev/kvm") == 0 && fails("open", -1); }

int open(const char *path, int flags, ...) {
    REAL(open);
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
    va_end(list);
    return open_fails(path) ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
    va_end(list);
    return open_fails(path) ? -1 : real(path, flags, mode);
}

// Shared mappings are guest memory and vcpu pages; the others are the interpreter's.
void *mmap(void *start, size_t size, int protection, int flags, int fd, off_t offset) {
    REAL(mmap);
    return flags & MAP_SHARED && fails("mmap", -1) ? MAP_FAILED : real(start, size, protection, flags, fd, offset);
}

void *mmap64(void *start, size_t size, int protection, int flags, int fd, off64_t offset) {
    REAL(mmap64);
    return flags & MAP_SHARED && fails("mmap", -1) ? MAP_FAILED : real(start, size, protection, flags, fd, offset);
}

int memfd_create(const char *name, unsigned flags) {
    REAL(memfd_create);
    return fails("memfd_create", -1) ? -1 : real(name, flags);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return fails("ftruncate", -1) ? -1 : real(fd, size);
}

int timer_create(clockid_t clock, struct sigevent *event, timer_t *timer) {
    REAL(timer_create);
    return fails("timer_create", -1) ? -1 : real(clock, event, timer);
}

// Counted by itself alone: who makes threads is the interpreter, too.
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *arg) {
    REAL(pthread_create);
    int fail = strcmp(only, "pthread_create") == 0 && fails("pthread_create", -1);
    return fail ? error : real(thread, attributes, start, arg);
}

void shim_arm(const char *only_, long argument_, long nth, int error_, int result_) {
    strncpy(only, only_, sizeof only - 1);
    argument = argument_;
    error = error_;
    result = result_;
    atomic_store(&failed, NULL);
    atomic_store(&calls, 0);
    atomic_store(&left, nth);
}

void shim_without(long capability) { lacking = capability; }

// Calls that matched since `shim_arm`, and the name of the one that failed, or null.
long shim_calls(void) { return atomic_load(&calls); }
const char *shim_failed(void) { return atomic_load(&failed); }
