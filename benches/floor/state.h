/* What the floors of states and of the fuzz loop have in common: what of a vCPU and a VM KVM knows, taken and put back. */
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

enum { MSRS = 256, PARTS = 3 };

struct msrs {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[MSRS];
};

struct state {
    /* Of whom; the page has the registers. */
    int vm, vcpu, irqchip;
    struct kvm_run *run;
    uint64_t tsc;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct msrs msrs;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_lapic_state lapic;
    struct kvm_mp_state mp_state;
    struct kvm_irqchip chips[PARTS];
    struct kvm_pit_state2 pit;
    struct kvm_clock_data clock;
};

/* Which MSRs belong to it. -1: too many. */
int state_has(struct state *state, const uint32_t *msrs, size_t count);
/* Gives a vCPU the CPUID that KVM supports. */
int state_cpuid(int kvm, int vcpu);
int state_save(struct state *state);
int state_load(struct state *state);
