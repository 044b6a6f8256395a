/* The floor of states: what of a vCPU and a VM KVM knows, taken and put back by hand, with as few ioctls as can be.
 *
 * It is what `accel::Vcpu::save` and `load` are measured against, so it has the same parts: registers and events wait
 * in the shared page for the next entry, the time-stamp counter by its offset. It lacks every check. Kernel api.rst is the
 * specification.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "state.h"

enum { CPUID_ENTRIES = 256, TSC = 0x10 };

/* A VM for its state alone. */
struct states {
    int kvm;
    size_t run_len;
    struct state of;
};

int state_has(struct state *state, const uint32_t *msrs, size_t count)
{
    if (count > MSRS)
        return -1;
    state->msrs.head.nmsrs = (uint32_t)count;
    for (size_t i = 0; i < count; i++)
        state->msrs.entries[i].index = msrs[i];
    return 0;
}

int state_cpuid(int kvm, int vcpu)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_ENTRIES * sizeof cpuid->entries[0]);
    if (!cpuid)
        return -1;
    cpuid->nent = CPUID_ENTRIES;
    int failed = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) != 0 || ioctl(vcpu, KVM_SET_CPUID2, cpuid) != 0;
    free(cpuid);
    return failed ? -1 : 0;
}

void states_close(struct states *states)
{
    if (states->of.run)
        munmap(states->of.run, states->run_len);
    const int descriptors[] = { states->of.vcpu, states->of.vm, states->kvm };
    for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    free(states);
}

static int open_all(struct states *states)
{
    struct state *state = &states->of;
    if ((states->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)) < 0 || (state->vm = ioctl(states->kvm, KVM_CREATE_VM, 0)) < 0)
        return -1;
    struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    if (state->irqchip && (ioctl(state->vm, KVM_CREATE_IRQCHIP, 0) != 0 || ioctl(state->vm, KVM_CREATE_PIT2, &pit) != 0))
        return -1;
    struct kvm_enable_cap payload = { .cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = { 1 } };
    if (ioctl(state->vm, KVM_ENABLE_CAP, &payload) != 0 || (state->vcpu = ioctl(state->vm, KVM_CREATE_VCPU, 0)) < 0)
        return -1;
    int run_len = ioctl(states->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (state_cpuid(states->kvm, state->vcpu) != 0 || run_len < 0)
        return -1;
    states->run_len = (size_t)run_len;
    void *run = mmap(NULL, states->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, state->vcpu, 0);
    if (run == MAP_FAILED)
        return -1;
    state->run = run;
    /* Entered once, so that the page has registers. */
    state->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    state->run->immediate_exit = 1;
    return ioctl(state->vcpu, KVM_RUN, 0) == -1 && errno == EINTR ? 0 : -1;
}

/* A VM with a vCPU, whose state has these MSRs. NULL with errno on failure. */
struct states *states_open(int irqchip, const uint32_t *msrs, size_t count)
{
    struct states *states = calloc(1, sizeof *states);
    if (!states)
        return NULL;
    states->kvm = states->of.vm = states->of.vcpu = -1;
    states->of.irqchip = irqchip;
    if (state_has(&states->of, msrs, count) != 0 || open_all(states) != 0) {
        int error = errno;
        states_close(states);
        errno = error;
        return NULL;
    }
    return states;
}

int states_save(struct states *states)
{
    return state_save(&states->of);
}

int states_load(struct states *states)
{
    return state_load(&states->of);
}

static int offset(struct state *state, unsigned long request, uint64_t *value)
{
    struct kvm_device_attr attribute = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)value };
    return ioctl(state->vcpu, request, &attribute);
}

int state_save(struct state *state)
{
    int vm = state->vm, vcpu = state->vcpu, result = 0;
    uint64_t now = __rdtsc(), tsc_offset = 0;
    result |= ioctl(vm, KVM_GET_CLOCK, &state->clock);
    for (uint32_t i = 0; state->irqchip && i < PARTS; i++) {
        state->chips[i].chip_id = i;
        result |= ioctl(vm, KVM_GET_IRQCHIP, &state->chips[i]);
    }
    if (state->irqchip) {
        result |= ioctl(vm, KVM_GET_PIT2, &state->pit);
        result |= ioctl(vcpu, KVM_GET_MP_STATE, &state->mp_state);
        result |= ioctl(vcpu, KVM_GET_REGS, &state->regs);
        result |= ioctl(vcpu, KVM_GET_LAPIC, &state->lapic);
    } else {
        state->regs = state->run->s.regs.regs;
    }
    if (!state->run->kvm_dirty_regs) { /* else they wait in the page, and the state is what was put back */
        result |= ioctl(vcpu, KVM_GET_VCPU_EVENTS, &state->events);
        result |= ioctl(vcpu, KVM_GET_SREGS, &state->sregs);
    }
    result |= ioctl(vcpu, KVM_GET_MSRS, &state->msrs) != (int)state->msrs.head.nmsrs;
    result |= offset(state, KVM_GET_DEVICE_ATTR, &tsc_offset);
    state->tsc = now + tsc_offset;
    result |= ioctl(vcpu, KVM_GET_DEBUGREGS, &state->debug);
    result |= ioctl(vcpu, KVM_GET_XSAVE, &state->xsave);
    result |= ioctl(vcpu, KVM_GET_XCRS, &state->xcrs);
    return result;
}

int state_load(struct state *state)
{
    int vm = state->vm, vcpu = state->vcpu, result = 0;
    uint64_t tsc_offset = state->tsc - __rdtsc();
    for (uint32_t i = 0; state->irqchip && i < PARTS; i++)
        result |= ioctl(vm, KVM_SET_IRQCHIP, &state->chips[i]);
    if (state->irqchip)
        result |= ioctl(vm, KVM_SET_PIT2, &state->pit);
    state->clock.flags = 0;
    result |= ioctl(vm, KVM_SET_CLOCK, &state->clock);
    result |= ioctl(vcpu, KVM_SET_XSAVE, &state->xsave);
    result |= ioctl(vcpu, KVM_SET_XCRS, &state->xcrs);
    /* All but the time-stamp counter, which the list begins with. */
    struct msrs msrs;
    uint32_t skipped = state->msrs.head.nmsrs > 0 && state->msrs.entries[0].index == TSC;
    msrs.head = (struct kvm_msrs){ .nmsrs = state->msrs.head.nmsrs - skipped };
    memcpy(msrs.entries, state->msrs.entries + skipped, msrs.head.nmsrs * sizeof msrs.entries[0]);
    result |= ioctl(vcpu, KVM_SET_MSRS, &msrs) != (int)msrs.head.nmsrs;
    result |= offset(state, KVM_SET_DEVICE_ATTR, &tsc_offset);
    result |= ioctl(vcpu, KVM_SET_DEBUGREGS, &state->debug);
    if (state->irqchip) {
        result |= ioctl(vcpu, KVM_SET_LAPIC, &state->lapic);
        result |= ioctl(vcpu, KVM_SET_MP_STATE, &state->mp_state);
    }
    state->run->s.regs.regs = state->regs;
    state->run->s.regs.sregs = state->sregs;
    state->run->s.regs.events = state->events;
    state->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    return result;
}
