/* The floor: the least that a C program does to run a guest and answer its accesses.
 *
 * It is what hyperpy's run loop is measured against, so it has the same guest, the same memory (a memfd, mapped shared),
 * the same system registers and CPUID bits, and general registers in the shared page at every exit (KVM_SYNC_X86_REGS).
 * It lacks all that hyperpy's loop is for: buses, stops, ticks, counters, checks. Kernel api.rst is the specification.
 *
 * `hyperpy bench` compiles it where it is used, together with _floor_more.c; the repository's benches/ link it alone.
 */
#define _GNU_SOURCE
#include "_floor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CPUID_ENTRIES = 256, TSS = 0xfffbd000, IDENTITY_MAP = 0xfffbc000, LONG_MODE_ACTIVE = 1 << 10 };
enum { X2APIC = 1 << 21, TSC_DEADLINE = 1 << 24 };
#define HYPERVISOR (1u << 31)

static int set_cpuid(struct floor *floor)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_ENTRIES * sizeof cpuid->entries[0]);
    if (!cpuid)
        return -1;
    cpuid->nent = CPUID_ENTRIES;
    int result = ioctl(floor->kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
    for (uint32_t i = 0; result == 0 && i < cpuid->nent; i++)
        if (cpuid->entries[i].function == 1)
            cpuid->entries[i].ecx = (cpuid->entries[i].ecx | HYPERVISOR) & ~(X2APIC | TSC_DEADLINE);
    if (result == 0)
        result = ioctl(floor->vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
    return result;
}

static int set_registers(struct floor *floor, const struct start *start)
{
    struct kvm_sregs sregs;
    if (ioctl(floor->vcpu, KVM_GET_SREGS, &sregs) != 0)
        return -1;
    int is_long = (start->efer & LONG_MODE_ACTIVE) != 0;
    sregs.cr0 = start->cr0;
    sregs.cr3 = start->cr3;
    sregs.cr4 = start->cr4;
    sregs.efer = start->efer;
    sregs.gdt.base = start->gdt_base;
    sregs.gdt.limit = start->gdt_limit;
    struct kvm_segment data = { .limit = 0xffff, .selector = start->data, .type = 3, .present = 1, .s = 1 };
    if (is_long)
        data.limit = UINT32_MAX, data.g = 1, data.db = 1;
    struct kvm_segment code = data;
    code.selector = start->code;
    code.type = 0xb;
    code.db = 0;
    code.l = is_long;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    struct kvm_regs regs = { .rip = start->rip, .rsp = start->rsp, .rflags = 2 };
    return ioctl(floor->vcpu, KVM_SET_SREGS, &sregs) | ioctl(floor->vcpu, KVM_SET_REGS, &regs);
}

static int map_memory(struct floor *floor, const uint8_t *image, size_t len)
{
    floor->ram_len = len;
    floor->memory = memfd_create("floor", MFD_CLOEXEC);
    if (floor->memory < 0 || ftruncate(floor->memory, (off_t)len) != 0)
        return -1;
    floor->ram = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, floor->memory, 0);
    if (floor->ram == MAP_FAILED)
        return -1;
    memcpy(floor->ram, image, len);
    struct kvm_userspace_memory_region region = { .memory_size = len, .userspace_addr = (uintptr_t)floor->ram };
    return ioctl(floor->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* What hyperpy asks for too, before the first vCPU. */
static int add_features(struct floor *floor, unsigned features)
{
    struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    if (features & FLOOR_IRQCHIP)
        return ioctl(floor->vm, KVM_CREATE_IRQCHIP, 0) | ioctl(floor->vm, KVM_CREATE_PIT2, &pit);
    return 0;
}

static int open_all(struct floor *floor, const uint8_t *image, size_t len, const struct start *start, unsigned features)
{
    uint64_t identity_map = IDENTITY_MAP;
    if ((floor->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)) < 0 || (floor->vm = ioctl(floor->kvm, KVM_CREATE_VM, 0)) < 0)
        return -1;
    if (ioctl(floor->vm, KVM_SET_TSS_ADDR, TSS) != 0 || ioctl(floor->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) != 0)
        return -1;
    if (add_features(floor, features) != 0 || map_memory(floor, image, len) != 0)
        return -1;
    if ((floor->vcpu = ioctl(floor->vm, KVM_CREATE_VCPU, 0)) < 0)
        return -1;
    int run_len = ioctl(floor->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_len < 0 || set_cpuid(floor) != 0 || set_registers(floor, start) != 0)
        return -1;
    floor->run_len = (size_t)run_len;
    floor->run = mmap(NULL, floor->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, floor->vcpu, 0);
    if (floor->run == MAP_FAILED)
        return -1;
    floor->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
    return 0;
}

void floor_close(struct floor *floor)
{
    if (floor->run != MAP_FAILED)
        munmap(floor->run, floor->run_len);
    const int descriptors[] = { floor->vcpu, floor->vm, floor->kvm, floor->memory, floor->event };
    for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    if (floor->ram != MAP_FAILED)
        munmap(floor->ram, floor->ram_len);
    free(floor);
}

struct floor *floor_open_with(const uint8_t *image, size_t len, const struct start *start, unsigned features)
{
    struct floor *floor = malloc(sizeof *floor);
    if (!floor)
        return NULL;
    *floor = (struct floor){ .kvm = -1, .vm = -1, .vcpu = -1, .memory = -1, .event = -1 };
    floor->ram = MAP_FAILED;
    floor->run = MAP_FAILED;
    if (open_all(floor, image, len, start, features) != 0) {
        int error = errno;
        floor_close(floor);
        errno = error;
        return NULL;
    }
    return floor;
}

struct floor *floor_open(const uint8_t *image, size_t len, const struct start *start)
{
    return floor_open_with(image, len, start, 0);
}

/* Answers `exits` exits, or until a byte is written to `end_port`. 0, or the reason of an exit that is none, or -1 with errno. */
int floor_run(struct floor *floor, uint64_t exits)
{
    struct kvm_run *run = floor->run;
    while (exits-- > 0) {
        while (ioctl(floor->vcpu, KVM_RUN, 0) != 0)
            if (errno != EINTR || floor->is_interruptible)
                return -1;
        floor->exits++;
        uint8_t *data;
        size_t size;
        uint32_t count = 1;
        int is_write;
        if (run->exit_reason == KVM_EXIT_IO) {
            data = (uint8_t *)run + run->io.data_offset;
            size = run->io.size;
            count = run->io.count;
            is_write = run->io.direction == KVM_EXIT_IO_OUT;
            if (is_write && run->io.port == floor->end_port) {
                floor->ended = 1;
                return 0;
            }
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            data = run->mmio.data;
            size = run->mmio.len;
            is_write = run->mmio.is_write;
        } else {
            return (int)run->exit_reason;
        }
        for (; count > 0; count--, data += size)
            if (is_write)
                memcpy(&floor->written, data, size);
            else
                floor->reads++, memcpy(data, &floor->reads, size);
    }
    return 0;
}
