/* What the parts of the floor share; see _floor.c. */
#ifndef HYPERPY_FLOOR_H
#define HYPERPY_FLOOR_H

#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* How vCPU 0 begins; hyperpy/_bench_floor.py and benches/src/floor.rs have the same structure. */
struct start {
    uint64_t rip, rsp, cr0, cr3, cr4, efer, gdt_base;
    uint16_t gdt_limit, code, data;
};

/* What a guest needs beside a vCPU: interrupt controllers and the PIT. */
enum { FLOOR_IRQCHIP = 1 };

struct floor {
    int kvm, vm, vcpu, memory;
    uint8_t *ram;
    size_t ram_len, run_len;
    struct kvm_run *run;
    /* The device: what was written last, and how often it was read. */
    uint64_t written, reads;
    /* Returns of KVM_RUN so far. */
    uint64_t exits;
    /* A write to this port ends `floor_run` early, with `ended` set; 0 for none. */
    uint16_t end_port;
    int ended;
    /* Whether a signal ends `floor_run`, with EINTR. */
    int is_interruptible;
    /* The rest is _floor_more.c's. Ends a guest that makes no exit; whether there is one. */
    timer_t patience;
    int has_patience;
    /* Whether there is a ring of writes, and the gsi that an access raises, 0 for none. */
    int has_ring;
    uint32_t raised_gsi;
    int event;
    /* Whoever reads `event`, where it is a doorbell's. */
    pthread_t listener;
    int has_listener;
    /* The vCPU's thread, where it has one. */
    pthread_t thread;
    int has_thread, is_over, kick_signal;
    uint64_t served_ns;
    sem_t parked, go, served;
};

/* A guest with `len` bytes of memory from address 0, filled from `image`. NULL with errno on failure. */
struct floor *floor_open(const uint8_t *image, size_t len, const struct start *start);
struct floor *floor_open_with(const uint8_t *image, size_t len, const struct start *start, unsigned features);
int floor_run(struct floor *floor, uint64_t exits);
void floor_close(struct floor *floor);

#endif
