/* The floor for `hyperpy bench`: exits that are no access to a bus, what KVM answers by itself, threads, and times.
 *
 * Each function does by hand, with the fewest calls, what hyperpy does for a user. Loaded into the process that measures,
 * so that both sides run in turn on one thread and one processor. Times are nanoseconds of CLOCK_MONOTONIC.
 */
#define _GNU_SOURCE
#include "_floor.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, HC_MAP_GPA_RANGE = 12, PATIENCE_S = 5, GAP_NS = 500000 };

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint8_t *floor_ram(struct floor *floor)
{
    return floor->ram;
}

void floor_end_at(struct floor *floor, uint16_t port)
{
    floor->end_port = port;
}

uint64_t floor_exits(struct floor *floor)
{
    return floor->exits;
}

/* -- what KVM is told: 0, or -1 with errno -------------------------------------------------------------------------- */

int floor_trap_msr(struct floor *floor, uint32_t index)
{
    uint8_t bitmap[8] = { 0 };
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args = { KVM_MSR_EXIT_REASON_FILTER } };
    struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
    filter.ranges[0].flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    filter.ranges[0].base = index;
    filter.ranges[0].nmsrs = 1;
    filter.ranges[0].bitmap = bitmap;
    return ioctl(floor->vm, KVM_ENABLE_CAP, &cap) | ioctl(floor->vm, KVM_X86_SET_MSR_FILTER, &filter);
}

int floor_trap_hypercalls(struct floor *floor)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_EXIT_HYPERCALL, .args = { 1 << HC_MAP_GPA_RANGE } };
    return ioctl(floor->vm, KVM_ENABLE_CAP, &cap);
}

int floor_ring(struct floor *floor, int is_pio, uint64_t address, uint32_t size)
{
    struct kvm_coalesced_mmio_zone zone = { .addr = address, .size = size, .pio = (uint32_t)is_pio };
    floor->has_ring = 1;
    return ioctl(floor->vm, KVM_REGISTER_COALESCED_MMIO, &zone);
}

/* Whoever hears a doorbell. */
static void *listen_to(void *argument)
{
    struct floor *floor = argument;
    uint64_t rings;
    while (!__atomic_load_n(&floor->is_over, __ATOMIC_SEQ_CST))
        if (read(floor->event, &rings, sizeof rings) == sizeof rings)
            floor->written = rings;
    return NULL;
}

int floor_ioeventfd(struct floor *floor, int is_pio, uint64_t address, uint32_t size)
{
    if ((floor->event = eventfd(0, EFD_CLOEXEC)) < 0)
        return -1;
    int error = pthread_create(&floor->listener, NULL, listen_to, floor);
    if ((floor->has_listener = error == 0) == 0)
        return errno = error, -1;
    struct kvm_ioeventfd bell = { .addr = address, .len = size, .fd = floor->event };
    bell.flags = is_pio ? KVM_IOEVENTFD_FLAG_PIO : 0;
    return ioctl(floor->vm, KVM_IOEVENTFD, &bell);
}

/* Leads `gsi`, and no other, to a message. */
int floor_message(struct floor *floor, uint32_t gsi, uint32_t address, uint32_t data)
{
    struct kvm_irq_routing *table = calloc(1, sizeof *table + sizeof table->entries[0]);
    if (!table)
        return -1;
    table->nr = 1;
    table->entries[0].gsi = gsi;
    table->entries[0].type = KVM_IRQ_ROUTING_MSI;
    table->entries[0].u.msi.address_lo = address;
    table->entries[0].u.msi.data = data;
    int result = ioctl(floor->vm, KVM_SET_GSI_ROUTING, table);
    free(table);
    return result;
}

void floor_raise_at_access(struct floor *floor, uint32_t gsi)
{
    floor->raised_gsi = gsi;
}

int floor_irqfd(struct floor *floor, uint32_t gsi)
{
    if ((floor->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        return -1;
    struct kvm_irqfd irqfd = { .fd = (uint32_t)floor->event, .gsi = gsi };
    return ioctl(floor->vm, KVM_IRQFD, &irqfd);
}

static int pulse(struct floor *floor, uint32_t gsi)
{
    struct kvm_irq_level high = { .irq = gsi, .level = 1 }, low = { .irq = gsi, .level = 0 };
    return ioctl(floor->vm, KVM_IRQ_LINE, &high) | ioctl(floor->vm, KVM_IRQ_LINE, &low);
}

/* -- signals: what ends a guest that makes no exit ------------------------------------------------------------------ */

static void nothing(int signal)
{
    (void)signal;
}

/* A real-time signal that nobody handles, from the highest one down; -1 if there is none. Taken once. */
static int take_signal(void)
{
    static int taken;
    if (taken)
        return taken;
    struct sigaction old, mine = { .sa_handler = nothing };
    for (int number = SIGRTMAX; number > SIGRTMIN; number--) {
        if (sigaction(number, NULL, &old) != 0 || old.sa_handler != SIG_DFL)
            continue;
        return sigaction(number, &mine, NULL) == 0 ? (taken = number) : -1;
    }
    errno = EBUSY;
    return -1;
}

/* Has this thread get a signal after PATIENCE_S, and then again and again: one can come just before KVM_RUN. */
static int begin_patience(struct floor *floor)
{
    if (!floor->has_patience) {
        struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = take_signal() };
        event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
        if (event.sigev_signo < 0 || timer_create(CLOCK_MONOTONIC, &event, &floor->patience) != 0)
            return -1;
        floor->has_patience = 1;
    }
    struct itimerspec when = { .it_value = { .tv_sec = PATIENCE_S }, .it_interval = { .tv_nsec = GAP_NS } };
    return timer_settime(floor->patience, 0, &when, NULL);
}

static void end_patience(struct floor *floor)
{
    timer_settime(floor->patience, 0, &(struct itimerspec){ 0 }, NULL);
}

/* -- a batch on this thread ----------------------------------------------------------------------------------------- */

static void drain(struct floor *floor)
{
    struct kvm_coalesced_mmio_ring *ring = (void *)((uint8_t *)floor->run + KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE);
    const uint32_t entries = (PAGE - sizeof *ring) / sizeof ring->coalesced_mmio[0];
    uint32_t first = ring->first, last = __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);
    for (; first != last; first = (first + 1) % entries)
        memcpy(&floor->written, ring->coalesced_mmio[first].data, sizeof floor->written);
    __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
}

static int drive(struct floor *floor)
{
    const int by_one = floor->has_ring || floor->raised_gsi;
    floor->ended = 0;
    while (!floor->ended) {
        int reason = floor_run(floor, by_one ? 1 : UINT64_MAX);
        if (floor->has_ring)
            drain(floor);
        switch (reason) {
        case 0:
            if (floor->raised_gsi && !floor->ended && pulse(floor, floor->raised_gsi) != 0)
                return -1;
            break;
        case KVM_EXIT_HLT:
            break;
        case KVM_EXIT_X86_RDMSR:
            floor->run->msr.error = 0;
            floor->run->msr.data = ++floor->reads;
            break;
        case KVM_EXIT_X86_WRMSR:
            floor->run->msr.error = 0;
            floor->written = floor->run->msr.data;
            break;
        case KVM_EXIT_HYPERCALL:
            floor->run->hypercall.ret = 0;
            break;
        default:
            return reason;
        }
    }
    return 0;
}

/* Runs until the guest writes to the end port. 0, or the reason of another exit, or -1 with errno: EINTR after a signal,
 * from which it can be called again, or ETIMEDOUT. */
int floor_drive(struct floor *floor)
{
    const uint64_t began = now();
    floor->is_interruptible = 1;
    if (begin_patience(floor) != 0)
        return -1;
    int result = drive(floor), error = errno;
    end_patience(floor);
    errno = error == EINTR && now() - began >= PATIENCE_S * 1000000000ull ? ETIMEDOUT : error;
    return result;
}

/* -- what is timed from outside ------------------------------------------------------------------------------------- */

/* Lives of a guest: made, run to its first write to the end port, closed. */
int floor_lives(const uint8_t *image, size_t len, const struct start *start, unsigned features, uint16_t end_port,
                uint64_t count, uint64_t *ns)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t began = now();
        struct floor *floor = floor_open_with(image, len, start, features);
        if (!floor)
            return -1;
        floor->end_port = end_port;
        int result = drive(floor);
        floor_close(floor);
        if (result != 0)
            return result;
        ns[i] = now() - began;
    }
    return 0;
}

/* Memory added to the guest at `gpa` and removed, of pages that nobody touches. */
int floor_maps(struct floor *floor, uint64_t gpa, uint64_t size, uint64_t count, uint64_t *ns)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t began = now();
        int memory = memfd_create("floor", MFD_CLOEXEC);
        if (memory < 0 || ftruncate(memory, (off_t)size) != 0)
            return -1;
        void *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory, 0);
        if (ram == MAP_FAILED)
            return -1;
        struct kvm_userspace_memory_region region = { .slot = 1, .guest_phys_addr = gpa, .memory_size = size };
        region.userspace_addr = (uintptr_t)ram;
        if (ioctl(floor->vm, KVM_SET_USER_MEMORY_REGION, &region) != 0)
            return -1;
        region.memory_size = 0;
        if (ioctl(floor->vm, KVM_SET_USER_MEMORY_REGION, &region) != 0)
            return -1;
        munmap(ram, size);
        close(memory);
        ns[i] = now() - began;
    }
    return 0;
}

/* -- a vCPU on a thread of its own ---------------------------------------------------------------------------------- */

static void *run_vcpu(void *argument)
{
    struct floor *floor = argument;
    for (;;) {
        if (ioctl(floor->vcpu, KVM_RUN, 0) == 0) {
            floor->served_ns = now();
            floor->exits++;
            sem_post(&floor->served);
        } else if (errno != EINTR) {
            return NULL; /* whoever waits for it loses patience */
        } else if (__atomic_load_n(&floor->run->immediate_exit, __ATOMIC_SEQ_CST)) {
            sem_post(&floor->parked);
            while (sem_wait(&floor->go) != 0) {
            }
            if (__atomic_load_n(&floor->is_over, __ATOMIC_SEQ_CST))
                return NULL;
        }
    }
}

static int wait_for(sem_t *semaphore)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    while (sem_timedwait(semaphore, &until) != 0)
        if (errno != EINTR)
            return -1;
    return 0;
}

static int park(struct floor *floor)
{
    __atomic_store_n(&floor->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(floor->thread, floor->kick_signal);
    return wait_for(&floor->parked);
}

static void unpark(struct floor *floor)
{
    __atomic_store_n(&floor->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    sem_post(&floor->go);
}

int floor_start(struct floor *floor)
{
    sem_init(&floor->parked, 0, 0);
    sem_init(&floor->go, 0, 0);
    sem_init(&floor->served, 0, 0);
    if ((floor->kick_signal = take_signal()) < 0)
        return -1;
    int error = pthread_create(&floor->thread, NULL, run_vcpu, floor);
    floor->has_thread = error == 0;
    errno = error;
    return error ? -1 : 0;
}

/* Waits until an access has come out of the guest: it says so that it is ready. */
int floor_await_access(struct floor *floor)
{
    return wait_for(&floor->served);
}

/* Ends what `floor_drive` and `floor_start` have made. */
void floor_stop(struct floor *floor)
{
    if (floor->has_patience)
        timer_delete(floor->patience);
    floor->has_patience = 0;
    if (floor->has_listener) {
        const uint64_t one = 1;
        __atomic_store_n(&floor->is_over, 1, __ATOMIC_SEQ_CST);
        if (write(floor->event, &one, sizeof one) == sizeof one)
            pthread_join(floor->listener, NULL);
        floor->has_listener = 0;
    }
    if (!floor->has_thread)
        return;
    park(floor);
    __atomic_store_n(&floor->is_over, 1, __ATOMIC_SEQ_CST);
    unpark(floor);
    pthread_join(floor->thread, NULL);
    floor->has_thread = 0;
}

/* From the wish to stop the vCPU until it stands; the guest counts at `counter` of its memory while it runs. */
int floor_kicks(struct floor *floor, uint64_t counter, uint64_t count, uint64_t *ns)
{
    volatile uint64_t *turns = (void *)(floor->ram + counter);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t before = *turns, began = now();
        while (*turns == before) {
            if (now() - began > PATIENCE_S * 1000000000ull)
                return errno = ETIMEDOUT, -1;
            sched_yield(); /* as hyperpy's side does: one that spins delays the vCPU where processors are few */
        }
        began = now();
        if (park(floor) != 0)
            return -1;
        ns[i] = now() - began;
        unpark(floor);
    }
    return 0;
}

/* From raising a gsi, by `KVM_IRQ_LINE` or by an irqfd, until the handler's access has come out of the sleeping guest. */
int floor_wakes(struct floor *floor, uint32_t gsi, uint64_t count, uint64_t *ns)
{
    const uint64_t one = 1;
    for (uint64_t i = 0; i < count; i++) {
        nanosleep(&(struct timespec){ .tv_nsec = GAP_NS }, NULL); /* until it sleeps again */
        uint64_t began = now();
        if (floor->event >= 0 ? write(floor->event, &one, sizeof one) < 0 : pulse(floor, gsi) != 0)
            return -1;
        if (wait_for(&floor->served) != 0)
            return -1;
        ns[i] = floor->served_ns - began;
    }
    return 0;
}
