/* The floor of a fuzz loop through a guest: the least that a C program does to run a guest and to put all of it back. No input is
 * made, none is put in, and nothing is looked at: so it is the ceiling of what any such loop can reach.
 *
 * Memory is restore.c's, told by the dirty log; the vCPU's state is state.c's. Kernel api.rst is the specification.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "restore.h"
#include "state.h"

struct fuzz {
    struct restore *guest;
    uint32_t reason;
    struct state state;
};

void fuzz_close(struct fuzz *fuzz)
{
    if (fuzz->guest)
        restore_close(fuzz->guest);
    free(fuzz);
}

/* What is under way is completed; nothing else is executed. */
static int complete(struct fuzz *fuzz)
{
    fuzz->guest->run->immediate_exit = 1;
    int result = ioctl(fuzz->guest->vcpu, KVM_RUN, 0);
    fuzz->guest->run->immediate_exit = 0;
    return result == -1 && errno == EINTR ? 0 : -1;
}

static int open_all(struct fuzz *fuzz, int is_user, uint64_t rip)
{
    int vcpu = fuzz->guest->vcpu;
    struct kvm_sregs sregs;
    if (state_cpuid(fuzz->guest->kvm, vcpu) != 0 || ioctl(vcpu, KVM_GET_SREGS, &sregs) != 0)
        return -1;
    if (!is_user) {
        sregs.cs.dpl = sregs.ss.dpl = sregs.ds.dpl = sregs.es.dpl = 0;
        sregs.cs.selector &= 0xfffc, sregs.ss.selector &= 0xfffc, sregs.ds.selector &= 0xfffc, sregs.es.selector &= 0xfffc;
        if (ioctl(vcpu, KVM_SET_SREGS, &sregs) != 0)
            return -1;
    }
    struct kvm_regs regs = { .rip = rip, .rflags = 0x3002 };
    if (ioctl(vcpu, KVM_SET_REGS, &regs) != 0)
        return -1;
    fuzz->state.vm = fuzz->guest->vm;
    fuzz->state.vcpu = vcpu;
    fuzz->state.run = fuzz->guest->run;
    fuzz->state.run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    return complete(fuzz) != 0 || state_save(&fuzz->state) != 0 ? -1 : 0;
}

/* A guest at `rip`, whose state has these MSRs, and which ends by `reason`. NULL with errno on failure. */
struct fuzz *fuzz_open(const uint8_t *image, size_t image_len, size_t len, int is_user, uint64_t rip, uint32_t reason,
                       const uint32_t *msrs, size_t count)
{
    struct fuzz *fuzz = calloc(1, sizeof *fuzz);
    if (!fuzz)
        return NULL;
    fuzz->reason = reason;
    fuzz->guest = restore_open(image, image_len, len, 0);
    if (!fuzz->guest || state_has(&fuzz->state, msrs, count) != 0 || open_all(fuzz, is_user, rip) != 0) {
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
    if (state_load(&fuzz->state) != 0)
        return -1;
    long pages = restore_put_back(fuzz->guest);
    while (ioctl(fuzz->guest->vcpu, KVM_RUN, 0) != 0)
        if (errno != EINTR)
            return -1;
    return run->exit_reason == fuzz->reason ? pages : -1;
}
