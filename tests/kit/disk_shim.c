/*
 * What a process does to the files of one folder: recorded in order, and failing on demand.
 *
 * Preloaded (LD_PRELOAD). Does nothing until disk_watch() names a folder; tests call it, disk_mark() and disk_fail() by
 * ctypes. Calls are counted from 1 over all files of the folder: those that read if the fault is one of reading, else those
 * that change something. A file is known by its inode, so that a rename keeps its history. Stores to mapped files are not
 * seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum kind { WRITE = 1, TRUNCATE, SYNC, CREATE, RENAME, UNLINK, MARK };
enum fault { NONE, EIO_ONCE, ENOSPC_FROM_THEN_ON, SHORT_THEN_ENOSPC, EIO_FROM_THEN_ON, KILLED, EIO_READING_ONCE, EIO_READING_FROM_THEN_ON };

struct head {
    uint32_t kind, error;
    uint64_t inode, offset;
    uint32_t name_bytes, data_bytes;
};

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static char folder[4096];
static size_t folder_bytes;
static int record = -1;
static long calls, fail_at;
static enum fault fault;

static void put(const void *bytes, size_t left)
{
    const char *from = bytes;
    while (left > 0) {
        long done = syscall(SYS_write, record, from, left);
        if (done <= 0)
            _exit(99);
        from += done;
        left -= (size_t)done;
    }
}

static void tell(enum kind kind, int error, uint64_t inode, uint64_t offset, const char *name, const void *data, size_t bytes)
{
    if (record < 0)
        return;
    struct head head = {kind, (uint32_t)error, inode, offset, (uint32_t)(name ? strlen(name) : 0), (uint32_t)bytes};
    put(&head, sizeof head);
    put(name, head.name_bytes);
    put(data, bytes);
}

void disk_watch(const char *path, int descriptor)
{
    snprintf(folder, sizeof folder, "%s", path);
    folder_bytes = strlen(folder);
    record = descriptor;
}

void disk_mark(const char *data, size_t bytes)
{
    pthread_mutex_lock(&one_at_a_time);
    tell(MARK, 0, 0, 0, NULL, data, bytes);
    pthread_mutex_unlock(&one_at_a_time);
}

void disk_fail(int how, long at)
{
    calls = 0;
    fault = (enum fault)how;
    fail_at = at;
}

long disk_calls(void)
{
    return calls;
}

/* The name inside the folder; "" for the folder itself, NULL for anything else. */
static const char *inside(const char *path)
{
    if (folder_bytes == 0 || strncmp(path, folder, folder_bytes) != 0)
        return NULL;
    if (path[folder_bytes] == '\0')
        return path + folder_bytes;
    return path[folder_bytes] == '/' ? path + folder_bytes + 1 : NULL;
}

static const char *name_of(int descriptor, char *room, size_t bytes)
{
    char link[64];
    if (folder_bytes == 0)
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, room, bytes - 1);
    if (length < 0)
        return NULL;
    room[length] = '\0';
    return inside(room);
}

static uint64_t inode_of(int descriptor)
{
    struct stat found;
    return fstat(descriptor, &found) == 0 ? found.st_ino : 0;
}

/* What becomes of this call: 0, an errno, or -1 for a short write. */
static int trouble(int is_write, int takes_room)
{
    if (fault >= EIO_READING_ONCE)
        return 0;
    calls++;
    if (fault == NONE || fail_at == 0 || calls < fail_at)
        return 0;
    int first = calls == fail_at;
    if (fault == KILLED)
        raise(SIGKILL);
    if (fault == EIO_ONCE)
        return first ? EIO : 0;
    if (fault == EIO_FROM_THEN_ON)
        return EIO;
    if (fault == SHORT_THEN_ENOSPC && first && is_write)
        return -1;
    return takes_room ? ENOSPC : 0;
}

static int reading_trouble(void)
{
    if (fault < EIO_READING_ONCE)
        return 0;
    pthread_mutex_lock(&one_at_a_time);
    calls++;
    int wrong = calls == fail_at || (fault == EIO_READING_FROM_THEN_ON && fail_at > 0 && calls > fail_at);
    pthread_mutex_unlock(&one_at_a_time);
    if (wrong)
        errno = EIO;
    return wrong;
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define ENTER char room[4200]; const char *name = name_of(fd, room, sizeof room)

static ssize_t written(int fd, const void *data, size_t bytes, off64_t offset, const char *name, ssize_t (*real)(int, const void *, size_t, off64_t))
{
    pthread_mutex_lock(&one_at_a_time);
    int wrong = trouble(1, 1);
    ssize_t done = -1;
    if (wrong > 0)
        errno = wrong;
    else
        done = real(fd, data, wrong < 0 && bytes > 1 ? bytes / 2 : bytes, offset);
    int error = errno;
    if (done > 0)
        tell(WRITE, 0, inode_of(fd), (uint64_t)offset, name, data, (size_t)done);
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset)
{
    REAL(pwrite64);
    ENTER;
    return name ? written(fd, data, bytes, offset, name, real) : real(fd, data, bytes, offset);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    return pwrite64(fd, data, bytes, offset);
}

static ssize_t plain(int fd, const void *data, size_t bytes, off64_t offset)
{
    (void)offset;
    return syscall(SYS_write, fd, data, bytes);
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    REAL(write);
    ENTER;
    if (!name)
        return real(fd, data, bytes);
    off64_t at = lseek64(fd, 0, (fcntl(fd, F_GETFL) & O_APPEND) ? SEEK_END : SEEK_CUR);
    return written(fd, data, bytes, at, name, plain);
}

ssize_t pread64(int fd, void *data, size_t bytes, off64_t offset)
{
    REAL(pread64);
    ENTER;
    return name && reading_trouble() ? -1 : real(fd, data, bytes, offset);
}

ssize_t pread(int fd, void *data, size_t bytes, off_t offset)
{
    return pread64(fd, data, bytes, offset);
}

ssize_t read(int fd, void *data, size_t bytes)
{
    REAL(read);
    ENTER;
    return name && reading_trouble() ? -1 : real(fd, data, bytes);
}

int ftruncate64(int fd, off64_t bytes)
{
    REAL(ftruncate64);
    ENTER;
    if (!name)
        return real(fd, bytes);
    pthread_mutex_lock(&one_at_a_time);
    int wrong = trouble(0, 1), done = wrong > 0 ? -1 : real(fd, bytes), error = wrong > 0 ? wrong : errno;
    if (done == 0)
        tell(TRUNCATE, 0, inode_of(fd), (uint64_t)bytes, name, NULL, 0);
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return done;
}

int ftruncate(int fd, off_t bytes)
{
    return ftruncate64(fd, bytes);
}

int posix_fallocate64(int fd, off64_t offset, off64_t bytes)
{
    REAL(posix_fallocate64);
    ENTER;
    if (!name)
        return real(fd, offset, bytes);
    pthread_mutex_lock(&one_at_a_time);
    int wrong = trouble(0, 1), error = wrong > 0 ? wrong : real(fd, offset, bytes);
    pthread_mutex_unlock(&one_at_a_time);
    return error;
}

int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    return posix_fallocate64(fd, offset, bytes);
}

static int synced(int fd, const char *name, int (*real)(int))
{
    pthread_mutex_lock(&one_at_a_time);
    int wrong = trouble(0, 0), done = wrong > 0 ? -1 : real(fd), error = wrong > 0 ? wrong : errno;
    tell(SYNC, done == 0 ? 0 : error, inode_of(fd), 0, name, NULL, 0);
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return done;
}

int fsync(int fd)
{
    REAL(fsync);
    ENTER;
    return name ? synced(fd, name, real) : real(fd);
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    ENTER;
    return name ? synced(fd, name, real) : real(fd);
}

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    va_list more;
    va_start(more, flags);
    int mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(more, int) : 0;
    va_end(more);
    const char *name = inside(path);
    if (!name || (flags & (O_ACCMODE | O_CREAT)) == O_RDONLY)
        return real(path, flags, mode);
    pthread_mutex_lock(&one_at_a_time);
    int there = access(path, F_OK) == 0, wrong = trouble(0, flags & O_CREAT && !there);
    int descriptor = wrong > 0 ? -1 : real(path, flags, mode), error = wrong > 0 ? wrong : errno;
    if (descriptor >= 0 && !there)
        tell(CREATE, 0, inode_of(descriptor), 0, name, NULL, 0);
    if (descriptor >= 0 && there && flags & O_TRUNC)
        tell(TRUNCATE, 0, inode_of(descriptor), 0, name, NULL, 0);
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return descriptor;
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(more, int) : 0;
    va_end(more);
    return open64(path, flags, mode);
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    const char *name = inside(from), *new_name = inside(to);
    if (!name || !new_name)
        return real(from, to);
    pthread_mutex_lock(&one_at_a_time);
    int wrong = trouble(0, 1), done = wrong > 0 ? -1 : real(from, to), error = wrong > 0 ? wrong : errno;
    if (done == 0)
        tell(RENAME, 0, 0, 0, name, new_name, strlen(new_name));
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return done;
}

int unlink(const char *path)
{
    REAL(unlink);
    const char *name = inside(path);
    if (!name)
        return real(path);
    pthread_mutex_lock(&one_at_a_time);
    int wrong = trouble(0, 0), done = wrong > 0 ? -1 : real(path), error = wrong > 0 ? wrong : errno;
    if (done == 0)
        tell(UNLINK, 0, 0, 0, name, NULL, 0);
    pthread_mutex_unlock(&one_at_a_time);
    errno = error;
    return done;
}
