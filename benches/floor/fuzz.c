/* The floor of a fuzz loop through a guest: the least that a C program does to run a guest and to put all of it back. No input is
 * made, none is put in, and nothing is looked at: so it is the ceiling of what any such loop can reach.
 *
 * Memory is restore.c's, told by the dirty log; the vCPU's state has the parts that state.c has. Kernel api.rst is the specification.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "restore.h"

enum { MSRS = 256, CPUID_ENTRIES = 256, TSC = 0x10 };

struct msrs {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[MSRS];
};

struct fuzz {
    struct restore *guest;
    uint32_t reason;
    /* The state. */
    uint64_t tsc;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct msrs msrs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_clock_data clock;
};

void fuzz_close(struct fuzz *fuzz)
{
    if (fuzz->guest)
        restore_close(fuzz->guest);
    free(fuzz);
}

static int offset(struct fuzz *fuzz, unsigned long request, uint64_t *value)
{
    struct kvm_device_attr attribute = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)value };
    return ioctl(fuzz->guest->vcpu, request, &attribute);
}

/* What is under way is completed; nothing else is executed. */
static int complete(struct fuzz *fuzz)
{
    fuzz->guest->run->immediate_exit = 1;
    int result = ioctl(fuzz->guest->vcpu, KVM_RUN, 0);
    fuzz->guest->run->immediate_exit = 0;
    return result == -1 && errno == EINTR ? 0 : -1;
}

static int take(struct fuzz *fuzz)
{
    int vm = fuzz->guest->vm, vcpu = fuzz->guest->vcpu, result = 0;
    uint64_t now = __rdtsc(), tsc_offset = 0;
    result |= ioctl(vm, KVM_GET_CLOCK, &fuzz->clock);
    result |= ioctl(vcpu, KVM_GET_VCPU_EVENTS, &fuzz->events);
    result |= ioctl(vcpu, KVM_GET_SREGS, &fuzz->sregs);
    result |= ioctl(vcpu, KVM_GET_MSRS, &fuzz->msrs) != (int)fuzz->msrs.head.nmsrs;
    result |= offset(fuzz, KVM_GET_DEVICE_ATTR, &tsc_offset);
    fuzz->tsc = now + tsc_offset;
    result |= ioctl(vcpu, KVM_GET_DEBUGREGS, &fuzz->debug);
    result |= ioctl(vcpu, KVM_GET_XSAVE, &fuzz->xsave);
    result |= ioctl(vcpu, KVM_GET_XCRS, &fuzz->xcrs);
    return result;
}

static int put(struct fuzz *fuzz)
{
    int vm = fuzz->guest->vm, vcpu = fuzz->guest->vcpu, result = 0;
    struct kvm_run *run = fuzz->guest->run;
    uint64_t tsc_offset = fuzz->tsc - __rdtsc();
    fuzz->clock.flags = 0;
    result |= ioctl(vm, KVM_SET_CLOCK, &fuzz->clock);
    result |= ioctl(vcpu, KVM_SET_XSAVE, &fuzz->xsave);
    result |= ioctl(vcpu, KVM_SET_XCRS, &fuzz->xcrs);
    struct msrs msrs;
    uint32_t skipped = fuzz->msrs.head.nmsrs > 0 && fuzz->msrs.entries[0].index == TSC;
    msrs.head = (struct kvm_msrs){ .nmsrs = fuzz->msrs.head.nmsrs - skipped };
    memcpy(msrs.entries, fuzz->msrs.entries + skipped, msrs.head.nmsrs * sizeof msrs.entries[0]);
    result |= ioctl(vcpu, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs;
    result |= offset(fuzz, KVM_SET_DEVICE_ATTR, &tsc_offset);
    result |= ioctl(vcpu, KVM_SET_DEBUGREGS, &fuzz->debug);
    run->s.regs.regs = fuzz->regs;
    run->s.regs.sregs = fuzz->sregs;
    run->s.regs.events = fuzz->events;
    run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    return result;
}

static int open_all(struct fuzz *fuzz, int is_user)
{
    int vcpu = fuzz->guest->vcpu;
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_ENTRIES * sizeof cpuid->entries[0]);
    if (!cpuid)
        return -1;
    cpuid->nent = CPUID_ENTRIES;
    int failed = ioctl(fuzz->guest->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) != 0 || ioctl(vcpu, KVM_SET_CPUID2, cpuid) != 0;
    free(cpuid);
    struct kvm_sregs sregs;
    if (failed || ioctl(vcpu, KVM_GET_SREGS, &sregs) != 0)
        return -1;
    if (!is_user) {
        sregs.cs.dpl = sregs.ss.dpl = sregs.ds.dpl = sregs.es.dpl = 0;
        sregs.cs.selector &= 0xfffc, sregs.ss.selector &= 0xfffc, sregs.ds.selector &= 0xfffc, sregs.es.selector &= 0xfffc;
        if (ioctl(vcpu, KVM_SET_SREGS, &sregs) != 0)
            return -1;
    }
    if (ioctl(vcpu, KVM_SET_REGS, &fuzz->regs) != 0)
        return -1;
    fuzz->guest->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    return complete(fuzz) != 0 || take(fuzz) != 0 ? -1 : 0;
}

/* A guest at `rip`, whose state has these MSRs, and which ends by `reason`. NULL with errno on failure. */
struct fuzz *fuzz_open(const uint8_t *image, size_t image_len, size_t len, int is_user, uint64_t rip, uint32_t reason,
                       const uint32_t *msrs, size_t count)
{
    struct fuzz *fuzz = calloc(1, sizeof *fuzz);
    if (!fuzz)
        return NULL;
    fuzz->reason = reason;
    fuzz->regs = (struct kvm_regs){ .rip = rip, .rflags = 0x3002 };
    fuzz->msrs.head.nmsrs = (uint32_t)count;
    for (size_t i = 0; i < count && i < MSRS; i++)
        fuzz->msrs.entries[i].index = msrs[i];
    fuzz->guest = restore_open(image, image_len, len, 0);
    if (!fuzz->guest || count > MSRS || open_all(fuzz, is_user) != 0) {
        int error = errno;
        fuzz_close(fuzz);
        errno = error;
        return NULL;
    }
    return fuzz;
}

/* Puts all back, and runs the guest to its end. How many pages were put back, or -1. */
long fuzz_turn(struct fuzz *fuzz)
{
    struct kvm_run *run = fuzz->guest->run;
    if (run->exit_reason == KVM_EXIT_IO && complete(fuzz) != 0)
        return -1;
    if (put(fuzz) != 0)
        return -1;
    long pages = restore_put_back(fuzz->guest);
    while (ioctl(fuzz->guest->vcpu, KVM_RUN, 0) != 0)
        if (errno != EINTR)
            return -1;
    return run->exit_reason == fuzz->reason ? pages : -1;
}
