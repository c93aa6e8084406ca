// Preloaded, it makes the C library's files slow, stalled or broken below a folder, and its wall
// clock jump. What it does is in the environment, read once:
//   FAULTS_BELOW     the folder; calls on files elsewhere are left alone
//   FAULTS_DELAY_MS  of each call: open, read, write, fsync
//   FAULTS_STALL     "CALL,SECONDS": call number CALL takes so long
//   FAULTS_ERROR     "KIND,ERRNO,FIRST,COUNT": those calls of a kind (open, read, …) fail
//   FAULTS_CLOCK_S   CLOCK_REALTIME is ahead and behind by so much, in turns of half a second
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

struct Faults {
  const char* below = getenv("FAULTS_BELOW");
  long delay_ms = number("FAULTS_DELAY_MS"), clock_s = number("FAULTS_CLOCK_S");
  long stall_at = 0, stall_s = 0, error = 0, first = 0, count = 0;
  char kind[16] = "";
  std::atomic<long> calls{0}, of_kind{0};

  Faults() {
    if (const char* text = getenv("FAULTS_STALL")) sscanf(text, "%ld,%ld", &stall_at, &stall_s);
    if (const char* text = getenv("FAULTS_ERROR")) sscanf(text, "%15[^,],%ld,%ld,%ld", kind, &error, &first, &count);
  }

  static long number(const char* name) { return getenv(name) ? atol(getenv(name)) : 0; }
};

Faults& faults() {
  static Faults one;
  return one;
}

void wait(long seconds, long milliseconds) {
  timespec left{seconds + milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (nanosleep(&left, &left) && errno == EINTR) {
  }
}

bool concerns(const char* path) {
  const char* below = faults().below;
  return below && path && !strncmp(path, below, strlen(below));
}

bool concerns(int file) {
  if (!faults().below) return false;
  char link[40], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return false;
  path[size] = 0;
  return concerns(path);
}

// Delays the call, or tells that it has failed.
bool fails(const char* kind) {
  Faults& f = faults();
  if (f.delay_ms) wait(0, f.delay_ms);
  if (++f.calls == f.stall_at) wait(f.stall_s, 0);
  if (strcmp(kind, f.kind)) return false;
  long number = ++f.of_kind;
  if (number < f.first || number >= f.first + f.count) return false;
  errno = static_cast<int>(f.error);
  return true;
}

long ahead(const timespec& now) {
  timespec steady;
  next<int (*)(clockid_t, timespec*)>("clock_gettime")(CLOCK_MONOTONIC, &steady);
  return (steady.tv_sec * 2 + steady.tv_nsec / 500000000) % 2 ? faults().clock_s : -faults().clock_s;
}

}  // namespace

extern "C" {

ssize_t read(int file, void* out, size_t size) {
  static auto real = next<ssize_t (*)(int, void*, size_t)>("read");
  return concerns(file) && fails("read") ? -1 : real(file, out, size);
}

ssize_t write(int file, const void* from, size_t size) {
  static auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  return concerns(file) && fails("write") ? -1 : real(file, from, size);
}

int fsync(int file) {
  static auto real = next<int (*)(int)>("fsync");
  return concerns(file) && fails("fsync") ? -1 : real(file);
}

int open64(const char* path, int flags, ...) {
  static auto real = next<int (*)(const char*, int, ...)>("open64");
  va_list more;
  va_start(more, flags);
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
  va_end(more);
  return concerns(path) && fails("open") ? -1 : real(path, flags, mode);
}

int clock_gettime(clockid_t clock, timespec* out) {
  static auto real = next<int (*)(clockid_t, timespec*)>("clock_gettime");
  int code = real(clock, out);
  if (clock == CLOCK_REALTIME && !code && faults().clock_s) out->tv_sec += ahead(*out);
  return code;
}

int gettimeofday(timeval* out, void*) noexcept {
  timespec now;
  int code = clock_gettime(CLOCK_REALTIME, &now);
  *out = {now.tv_sec, now.tv_nsec / 1000};
  return code;
}

time_t time(time_t* out) noexcept {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
}
