/* The floor of saving a snapshot: the least that a C program does to bring the same bytes onto the disk.
 *
 * Uncompressed that is write and fsync. Compressed it is zstd at level 1, block by block, and the checksum of what is written
 * (XXH3, 64 bits): with the library's own code for both, straight from memory, without looking for pages that are zero or there twice.
 */
#define _GNU_SOURCE
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

/* zstd is linked with hyperpy's core; its header is not there. */
typedef struct ZSTD_CCtx_s ZSTD_CCtx;
ZSTD_CCtx *ZSTD_createCCtx(void);
size_t ZSTD_freeCCtx(ZSTD_CCtx *);
size_t ZSTD_compressCCtx(ZSTD_CCtx *, void *to, size_t room, const void *from, size_t len, int level);
unsigned ZSTD_isError(size_t);
size_t ZSTD_compressBound(size_t);

static int put(int file, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        ssize_t done = write(file, bytes, len);
        if (done <= 0)
            return -1;
        bytes += done;
        len -= (size_t)done;
    }
    return 0;
}

static int put_compressed(int file, const uint8_t *bytes, size_t len, size_t block, uint64_t *sum)
{
    size_t room = ZSTD_compressBound(block);
    uint8_t *packed = malloc(room);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    int result = packed && context ? 0 : -1;
    while (result == 0 && len > 0) {
        size_t now = len < block ? len : block;
        size_t size = ZSTD_compressCCtx(context, packed, room, bytes, now, 1);
        result = ZSTD_isError(size) ? -1 : put(file, packed, size);
        *sum ^= result == 0 ? XXH3_64bits(packed, size) : 0;
        bytes += now;
        len -= now;
    }
    ZSTD_freeCCtx(context);
    free(packed);
    return result;
}

/* 0, or -1 with errno. `block` is 0 for bytes as they are; `sum` gets what keeps the checksums from being left out. */
int snapshot_floor_save(const char *path, const uint8_t *bytes, size_t len, size_t block, uint64_t *sum)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0)
        return -1;
    *sum = 0;
    int result = block ? put_compressed(file, bytes, len, block, sum) : put(file, bytes, len);
    if (result == 0)
        result = fsync(file);
    close(file);
    return result;
}
