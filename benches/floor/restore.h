/* What the floors of restore and of the fuzz loop have in common: a guest whose memory is put back. */
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE = 4096, ENTRIES = 2048 };

struct restore {
    int kvm, vm, vcpu, file, rings;
    uint8_t *ram, *base;
    size_t len, run_len;
    struct kvm_run *run;
    struct kvm_dirty_gfn *ring;
    uint32_t next;
    uint64_t *log;
    /* Pages of a child's parent that are not the file's. */
    uint32_t *written;
    size_t count;
};

struct restore *restore_open(const uint8_t *image, size_t image_len, size_t len, int rings);
long restore_put_back(struct restore *r);
void restore_close(struct restore *r);
