/* The floor of restore and fork: the least that a C program does to put back the pages that a guest has written, and to have a
 * second memory with the same content.
 *
 * The guest's memory is a private mapping of a sealed memfd. What was written is told by the vCPU's dirty ring, or by the dirty log
 * with manual clear, and copied back from a second mapping of the file. No page that the host writes is known, nothing is
 * kept that could be restored to but the file, no other thread is thought of. Kernel api.rst is the specification.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "restore.h"

void restore_close(struct restore *r)
{
    if (r->run != MAP_FAILED)
        munmap(r->run, r->run_len);
    if (r->ring != MAP_FAILED)
        munmap(r->ring, ENTRIES * sizeof *r->ring);
    const int descriptors[] = { r->vcpu, r->vm, r->kvm, r->file };
    for (size_t i = 0; i < 4; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    if (r->ram != MAP_FAILED)
        munmap(r->ram, r->len);
    if (r->base != MAP_FAILED)
        munmap(r->base, r->len);
    free(r->log);
    free(r->written);
    free(r);
}

static int map_memory(struct restore *r, const uint8_t *image, size_t image_len)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    r->file = memfd_create("floor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (r->file < 0 || ftruncate(r->file, (off_t)r->len) != 0 || pwrite(r->file, image, image_len, 0) != (ssize_t)image_len)
        return -1;
    if (fcntl(r->file, F_ADD_SEALS, seals) != 0)
        return -1;
    r->ram = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, r->file, 0);
    r->base = mmap(NULL, r->len, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, r->file, 0);
    r->log = calloc(r->len / PAGE / 64 + 1, 8);
    r->written = calloc(r->len / PAGE + 1, sizeof *r->written);
    return r->ram == MAP_FAILED || r->base == MAP_FAILED || !r->log || !r->written ? -1 : 0;
}

static int open_all(struct restore *r, const uint8_t *image, size_t image_len, const struct kvm_sregs *sregs)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE } };
    if (r->rings)
        cap = (struct kvm_enable_cap){ .cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args = { ENTRIES * sizeof *r->ring } };
    if ((r->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)) < 0 || (r->vm = ioctl(r->kvm, KVM_CREATE_VM, 0)) < 0)
        return -1;
    if (ioctl(r->vm, KVM_SET_TSS_ADDR, 0xfffbd000) != 0 || ioctl(r->vm, KVM_ENABLE_CAP, &cap) != 0)
        return -1;
    if (map_memory(r, image, image_len) != 0)
        return -1;
    struct kvm_userspace_memory_region region = {
        .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = r->len, .userspace_addr = (uintptr_t)r->ram,
    };
    if (ioctl(r->vm, KVM_SET_USER_MEMORY_REGION, &region) != 0 || (r->vcpu = ioctl(r->vm, KVM_CREATE_VCPU, 0)) < 0)
        return -1;
    r->run_len = (size_t)ioctl(r->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    r->run = mmap(NULL, r->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->vcpu, 0);
    if (r->rings)
        r->ring = mmap(NULL, ENTRIES * sizeof *r->ring, PROT_READ | PROT_WRITE, MAP_SHARED, r->vcpu,
                       (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * PAGE);
    if (r->run == MAP_FAILED || (r->rings && r->ring == MAP_FAILED))
        return -1;
    struct kvm_sregs all;
    if (ioctl(r->vcpu, KVM_GET_SREGS, &all) != 0)
        return -1;
    all.cs = sregs->cs, all.ds = sregs->ds, all.es = sregs->es, all.ss = sregs->ss;
    all.gdt = sregs->gdt, all.cr0 = sregs->cr0, all.cr3 = sregs->cr3, all.cr4 = sregs->cr4, all.efer = sregs->efer;
    return ioctl(r->vcpu, KVM_SET_SREGS, &all);
}

/* The registers of a user's program in long mode, with page tables at 0x8000. */
static struct kvm_sregs user_sregs(void)
{
    struct kvm_segment data = { .limit = UINT32_MAX, .selector = 0x1b, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1 };
    struct kvm_segment code = data;
    code.selector = 0x13, code.type = 0xb, code.db = 0, code.l = 1;
    return (struct kvm_sregs){ .cs = code, .ds = data, .es = data, .ss = data, .gdt = { .base = 0x500, .limit = 31 },
                               .cr0 = 0x80000033, .cr3 = 0x8000, .cr4 = 0x620, .efer = 0x500 };
}

struct restore *restore_open(const uint8_t *image, size_t image_len, size_t len, int rings)
{
    struct restore *r = malloc(sizeof *r);
    if (!r)
        return NULL;
    *r = (struct restore){ .kvm = -1, .vm = -1, .vcpu = -1, .file = -1, .rings = rings, .len = len };
    r->ram = r->base = MAP_FAILED;
    r->run = MAP_FAILED;
    r->ring = MAP_FAILED;
    struct kvm_sregs sregs = user_sregs();
    if (open_all(r, image, image_len, &sregs) != 0) {
        int error = errno;
        restore_close(r);
        errno = error;
        return NULL;
    }
    return r;
}

/* The guest writes so many pages, from `start` on, and ends by a write to a port. */
int restore_run(struct restore *r, uint64_t rip, uint64_t start, uint64_t pages, uint64_t value)
{
    struct kvm_regs regs = { .rip = rip, .rflags = 0x3002, .rsi = start, .rcx = pages, .rbx = value };
    /* What it was left for is complete before registers are set. */
    r->run->immediate_exit = 1;
    ioctl(r->vcpu, KVM_RUN, 0);
    r->run->immediate_exit = 0;
    if (ioctl(r->vcpu, KVM_SET_REGS, &regs) != 0)
        return -1;
    while (ioctl(r->vcpu, KVM_RUN, 0) != 0)
        if (errno != EINTR)
            return -1;
    return r->run->exit_reason == KVM_EXIT_IO ? 0 : (int)r->run->exit_reason;
}

static void put(struct restore *r, size_t page)
{
    memcpy(r->ram + page * PAGE, r->base + page * PAGE, PAGE);
}

static long by_ring(struct restore *r)
{
    long pages = 0;
    for (;; pages++, r->next++) {
        struct kvm_dirty_gfn *entry = &r->ring[r->next % ENTRIES];
        if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
            break;
        put(r, entry->offset);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    return pages && ioctl(r->vm, KVM_RESET_DIRTY_RINGS, 0) < 0 ? -1 : pages;
}

static long by_log(struct restore *r)
{
    struct kvm_dirty_log log = { .dirty_bitmap = r->log };
    if (ioctl(r->vm, KVM_GET_DIRTY_LOG, &log) != 0)
        return -1;
    long pages = 0;
    size_t words = r->len / PAGE / 64;
    for (size_t first = 0; first < words; first++) {
        size_t end = first;
        for (; end < words && r->log[end]; end++)
            for (uint64_t left = r->log[end]; left; left &= left - 1, pages++)
                put(r, end * 64 + (size_t)__builtin_ctzll(left));
        struct kvm_clear_dirty_log clear = {
            .num_pages = (uint32_t)((end - first) * 64), .first_page = first * 64, .dirty_bitmap = r->log + first,
        };
        if (end > first && ioctl(r->vm, KVM_CLEAR_DIRTY_LOG, &clear) != 0)
            return -1;
        first = end;
    }
    return pages;
}

/* Puts everything back. How many pages, or -1 with errno. */
long restore_put_back(struct restore *r)
{
    return r->rings ? by_ring(r) : by_log(r);
}

/* Writes so many pages as the host, and remembers them. */
void restore_write(struct restore *r, uint64_t start, uint64_t pages)
{
    for (r->count = 0; r->count < pages; r->count++) {
        r->written[r->count] = (uint32_t)(start / PAGE + r->count);
        r->ram[start + r->count * PAGE] = 1;
    }
}

/* A second memory with the same content, and gone again. */
int restore_fork(struct restore *r)
{
    uint8_t *child = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, r->file, 0);
    if (child == MAP_FAILED)
        return -1;
    for (size_t i = 0; i < r->count; i++)
        memcpy(child + (size_t)r->written[i] * PAGE, r->ram + (size_t)r->written[i] * PAGE, PAGE);
    return munmap(child, r->len);
}
